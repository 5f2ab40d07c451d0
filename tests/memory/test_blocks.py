"""Every way of searching a block proposes the same rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kc.memory.disk import Memory
from kc.memory.search import blocks as blocks_module
from kc.memory.search.blocks import cheapest_plan, gather, masked_knn, overfetch_knn, plan_blocks
from kc.memory.store.view import Columns
from kc.types import Rows


@pytest.mark.parametrize("way", [masked_knn, overfetch_knn])
@pytest.mark.parametrize("n_queries", [1, 7, 40])
def test_masked_runs_against_a_twin(way: Callable[..., tuple[np.ndarray, np.ndarray]], n_queries: int) -> None:
    rng = np.random.default_rng(0)
    run = rng.normal(size=(1500, 12)).astype(np.float32)
    queries = rng.normal(size=(n_queries, 12)).astype(np.float32)
    keep = rng.random(1500) < 0.85
    score, row = way(queries, run, keep, 30)
    twin = np.where(keep, queries @ run.T, -np.inf)
    order = np.argsort(-twin, axis=1)[:, :30]
    assert np.array_equal(np.sort(row, axis=1), np.sort(order, axis=1))
    assert np.allclose(score, np.take_along_axis(twin, row, 1), atol=1e-5)


def test_spare_rows_that_do_not_suffice() -> None:
    """The best 200 rows of one query are hidden: it is answered by itself; of many such queries none is."""
    rng = np.random.default_rng(0)
    run = rng.normal(size=(1500, 12)).astype(np.float32)
    queries = rng.normal(size=(40, 12)).astype(np.float32)
    keep = np.ones(1500, bool)
    keep[np.argsort(-(run @ queries[3]))[:200]] = False
    found = overfetch_knn(queries, run, keep, 30)
    assert found is not None
    twin = np.where(keep, queries @ run.T, -np.inf)
    order = np.argsort(-twin, axis=1)[:, :30]
    assert np.array_equal(np.sort(found[1], axis=1), np.sort(order, axis=1))
    assert overfetch_knn(np.repeat(queries[3:4], 40, axis=0), run, keep, 30) is None


def columns_of(path: Path, sizes: list[int]) -> tuple[Columns, np.ndarray]:
    rng = np.random.default_rng(1)
    keys = rng.normal(size=(sum(sizes), 6))
    keys = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)
    memory = Memory.create(path, dim=6, fingerprint="f")
    for t, part in enumerate(np.split(np.arange(len(keys)), np.cumsum(sizes)[:-1])):
        n = len(part)
        memory.add(Rows(keys[part], np.zeros(n, np.int64), tuple(f"s{i}" for i in part), np.zeros(n, np.int64)), t)
        memory.commit(t)
    return memory._view().columns, keys


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gather_crosses_segments(tmp_path: Path, dtype: type) -> None:
    columns, keys = columns_of(tmp_path / "m", [300, 1, 500])
    positions = np.random.default_rng(2).integers(0, 801, 700)
    out = np.empty((700, 6), dtype)
    gather(columns, positions, out)
    assert np.array_equal(out, keys[positions])
    gather(columns, positions[:0], out[:0])


def test_blocks_are_mapped_masked_or_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", 800)  # runs of 50 rows and more are searched where they lie
    columns, keys = columns_of(tmp_path / "m", [400, 30, 400])
    mask = np.ones(830, bool)
    mask[430:630:2] = False
    query = keys[:3]
    for cache, kinds in ((0, [(True, False), (True, True), (False, False)]), (2**20, [(True, False), (False, False)])):
        blocks = plan_blocks(columns, mask, cache)
        assert [(b.run is not None, b.keep is not None) for b in blocks] == kinds
        assert np.array_equal(np.sort(np.concatenate([b.positions for b in blocks])), np.flatnonzero(mask))
        assert all((b.copy is not None) == (b.run is None and cache > 0) for b in blocks)
        scratch: list[np.ndarray] = []
        for b in blocks:
            assert np.array_equal(b.load(columns), keys[b.positions])
            for n_queries in (1, 3):
                position = b.nearest(columns, query[:n_queries], 9, scratch)[1]
                best = b.positions[np.argsort(-(query[:n_queries] @ keys[b.positions].T), axis=1)[:, :9]]
                assert np.array_equal(np.sort(position, axis=1), np.sort(best, axis=1))


def test_the_cheapest_way() -> None:
    assert cheapest_plan(1, 0.01) == cheapest_plan(1, 0.9) == "masked"
    assert cheapest_plan(100, 0.2) == cheapest_plan(100, 0.7) == "copy"
    assert cheapest_plan(16, 0.99) == cheapest_plan(100, 0.9) == "overfetch"


def test_gather_of_rising_positions_crosses_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "SCRATCH_ROWS", 16)
    columns, keys = columns_of(tmp_path / "m", [300, 1, 500])
    positions = np.flatnonzero(np.random.default_rng(2).random(801) < 0.5)
    out = np.empty((len(positions), 6), dtype=np.float32)
    gather(columns, positions, out)
    assert np.array_equal(out, keys[positions])
