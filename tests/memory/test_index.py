"""Approximate search: what it finds, what it never returns, and that its files are never trusted."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from kc.memory.disk import Memory
from kc.memory.search import index as approximate
from kc.memory.search import planner as planner_module
from kc.memory.search.exact import Search
from kc.memory.search.index import Index, inner_products
from kc.memory.search.planner import SearchOptions
from kc.memory.store.view import View
from kc.types import Neighbours, Rows

KINDS = ["ivf-pq", "ivf-sq8", "hnsw"]
DIM, N = 72, 3000


def features(n: int, seed: int, centres: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Clustered keys with a spectrum that falls, and their classes."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, DIM + 1) ** -0.5
    class_id = rng.integers(0, centres, n)
    centre = np.random.default_rng(seed // 100).normal(size=(centres, DIM))
    x = (centre[class_id] + 0.5 * rng.normal(size=(n, DIM))) * spectrum
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), class_id


def add(memory: Memory, task: int, keys: np.ndarray, class_id: np.ndarray) -> None:
    names = tuple(f"t{task}-{i}" for i in range(len(keys)))
    memory.add(Rows(keys, class_id.astype(np.int64), names, np.zeros(len(keys), np.int64)), task)
    memory.commit(task)


def options(kind: str, **more: object) -> SearchOptions:
    return SearchOptions(index=kind, exact_rows=500, **more)  # type: ignore[arg-type]


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    memory = Memory.create(tmp_path / "m", dim=DIM, fingerprint="f")
    add(memory, 0, *features(N, 0))
    return memory


def recall(found: Neighbours, truth: Neighbours) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found.id, truth.id, strict=True)]))


def index_file(memory: Memory) -> Path:
    (path,) = (memory.path / "cache").glob("*/*.faiss")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_near_exact_and_self_match(memory: Memory, kind: str) -> None:
    queries, _ = features(100, 1)
    truth = memory.search(queries, 16)
    assert memory.stats()["index"] is None
    memory.configure(options(kind))
    found = memory.search(queries, 16)
    stats = memory.stats()
    assert stats["plan"] == kind
    assert stats["index"]["kind"] == kind
    assert stats["index"]["rows"] == stats["index"]["trained_rows"] == N
    assert stats["index"]["recall"] >= 0.99
    assert recall(found, truth) > 0.98
    same = found.id == truth.id
    assert np.array_equal(found.score[same], truth.score[same])  # float64 of the stored rows, not codes
    own = memory.search(memory.keys(range(0, N, 7)), 3)
    assert np.array_equal(own.id[:, 0], np.arange(0, N, 7))
    without = memory.search(memory.keys(range(200)), 3, exclude_ids=np.arange(200))
    assert (without.id != np.arange(200)[:, None]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_rows_are_not_found(memory: Memory, kind: str) -> None:
    memory.configure(options(kind))
    add(memory, 1, *features(1000, 2))
    queries, _ = features(60, 1)
    memory.search(queries, 4)
    gone = np.random.default_rng(3).choice(N, 800, replace=False)
    memory.remove(gone)
    hidden = np.setdiff1d(np.arange(0, N, 9), gone)
    memory.reweight(hidden, 0.0)
    exact = Memory.open(memory.path)
    exact.configure(SearchOptions(index="exact"))
    filters: list[dict[str, object]] = [{}, {"at": 0}, {"classes": range(25)}, {"tasks": [1]}, {"classes": [3]}]
    for more in filters:
        found, truth = memory.search(queries, 10, **more), exact.search(queries, 10, **more)  # type: ignore[arg-type]
        assert recall(found, truth) > 0.95, more
        rows = memory.rows_of(found.id.reshape(-1))
        assert rows.visible.all() or more == {"at": 0}
        if "at" not in more:
            assert not np.isin(found.id, hidden).any()
        else:
            assert np.isin(found.id, gone).any()
            assert (found.id < N).all()


def test_a_list_that_is_too_short_is_answered_exactly(memory: Memory) -> None:
    truth = memory.search(features(5, 1)[0], 2500)
    memory.configure(options("ivf-pq"))
    found = memory.search(features(5, 1)[0], 2500)
    assert np.array_equal(found.id, truth.id)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_finds_itself_in_a_scene_of_near_duplicates(tmp_path: Path, kind: str) -> None:
    """Codes cannot tell 1,000 rows 3e-4 apart; no short list holds them all."""
    rng = np.random.default_rng(4)
    keys, class_id = features(2000, 0)
    noise = rng.normal(size=(1000, DIM))
    keys[:1000] = keys[0] + 3e-4 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    with Memory.create(tmp_path / "m", dim=DIM, fingerprint="f") as memory:
        add(memory, 0, keys, class_id)
        memory.configure(options(kind))
        assert np.array_equal(memory.search(memory.keys(range(0, 2000, 5)), 1).id[:, 0], np.arange(0, 2000, 5))
        assert memory.stats()["plan"] == kind


def test_the_index_is_stored_extended_and_pruned(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.configure(options("ivf-pq"))
    queries, _ = features(30, 1)
    first = memory.search(queries, 5)
    path = index_file(memory)
    build = planner_module.build
    monkeypatch.setattr(planner_module, "build", lambda *a: pytest.fail("trained again"))
    again = Memory.open(memory.path)
    again.configure(options("ivf-pq"))
    assert np.array_equal(again.search(queries, 5).id, first.id)
    memory.remove([0, 1])  # does not touch the segments, so the index stays
    memory.search(queries, 5)
    assert index_file(memory) == path
    add(memory, 1, *features(500, 3))  # the same classes: added, not trained
    memory.search(queries, 5)
    assert index_file(memory) != path
    assert memory.stats()["index"]["rows"] == N + 500
    assert memory.stats()["index"]["trained_rows"] == N
    memory.erase([5])
    assert not (memory.path / "cache").exists()
    monkeypatch.setattr(planner_module, "build", build)
    assert not (memory.search(memory.keys([6]), 50).id == 5).any()
    assert memory.stats()["index"]["rows"] == N + 500 - 1
    assert index_file(memory).exists()


def test_drift_trains_anew(tmp_path: Path) -> None:
    """Trained on two classes only, the index finds too little of the classes that come later."""
    with Memory.create(tmp_path / "m", dim=DIM, fingerprint="f") as memory:
        memory.configure(options("ivf-pq", recall=0.992))
        narrow, classes = features(3000, 500, centres=2)
        add(memory, 0, narrow, classes)
        memory.search(narrow[:5], 4)
        assert memory.stats()["index"]["trained_rows"] == 3000
        add(memory, 1, *features(6000, 501, centres=40))
        memory.search(narrow[:5], 4)
        assert memory.stats()["index"]["trained_rows"] == 9000
        assert memory.stats()["index"]["recall"] >= 0.992


@pytest.mark.parametrize(("full_at", "effort"), [(5, 8), (50, 51), (55, 62), (10_000, 62)])
def test_the_probe_looks_no_harder_than_it_must(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, full_at: int, effort: int
) -> None:
    """Steps of a half (8, 12, 18, 27, 41, 62), then one of half a step back; no harder than the index may look."""

    class Finds(Search):
        """A share of the true rows that grows with the effort."""

        def __init__(self, view: View, mask: np.ndarray, index: Index) -> None:
            super().__init__(view, mask)
            self.index = index

        def __call__(self, queries: object, k: int, dim: int, exclude_ids: object = None) -> Neighbours:
            found = super().__call__(queries, k, dim, exclude_ids)
            share = min(1.0, self.index.effort / full_at)
            found.id[round(share * len(found.id)) :] = -1
            return found

    monkeypatch.setattr(approximate, "ApproximateSearch", Finds)
    monkeypatch.setattr(Index, "max_effort", 70)
    view = memory._view()
    index = approximate.probe(view, view.visible, Index("hnsw", None, (), N), 0.99, 0, tune=True)
    assert index.effort == effort
    assert index.recall == pytest.approx(min(1.0, effort / full_at), abs=0.005)


def test_an_index_that_cannot_reach_the_target_is_not_used(memory: Memory) -> None:
    memory.configure(options("ivf-pq", recall=1.01))
    queries, _ = features(30, 1)
    found = memory.search(queries, 5)
    assert memory.stats()["plan"] == "exact"
    assert "at its limit" in memory.stats()["reason"]
    memory.configure(SearchOptions(index="exact"))
    assert np.array_equal(found.id, memory.search(queries, 5).id)


@pytest.mark.parametrize("damage", ["byte", "short", "foreign", "json", "missing"])
def test_a_damaged_or_foreign_index_is_built_again(memory: Memory, damage: str) -> None:
    memory.configure(options("ivf-pq"))
    queries, _ = features(30, 1)
    before = memory.search(queries, 5)
    path = index_file(memory)
    description = path.with_suffix(".json")
    if damage == "byte":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "foreign":  # whole, but it does not hold these rows
        description.write_text(json.dumps({**json.loads(description.read_text()), "rows": 7}))
    elif damage == "json":
        description.write_text("{")
    else:
        path.unlink()
    for write in (False, True):  # a reader leaves the file alone, the writer puts a whole one in its place
        memory.close()
        with Memory.open(memory.path, write=write) as other:
            other.configure(options("ivf-pq"))
            with pytest.warns(RuntimeWarning, match="is not an index of this memory and is built again"):
                after = other.search(queries, 5)
            assert np.array_equal(before.id, after.id)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        third = Memory.open(memory.path)
        third.configure(options("ivf-pq"))
        assert np.array_equal(third.search(queries, 5).id, before.id)


def test_a_reader_stores_no_index(memory: Memory) -> None:
    """What it left could outlive an erase."""
    reader = Memory.open(memory.path)
    reader.configure(options("ivf-pq"))
    reader.search(features(5, 1)[0], 5)
    assert reader.stats()["index"]["rows"] == N
    assert not (memory.path / "cache").exists()


def test_an_index_that_cannot_be_stored_serves_this_process(memory: Memory) -> None:
    (memory.path / "cache").write_text("in the way")
    memory.configure(options("ivf-pq"))
    queries, _ = features(30, 1)
    with pytest.warns(RuntimeWarning, match="serves this process only"):
        memory.search(queries, 5)
    assert memory.stats()["index"]["rows"] == N


def test_products_with_own_rows_across_segments(memory: Memory) -> None:
    add(memory, 1, *features(500, 1))
    columns, rng = memory._view().columns, np.random.default_rng(0)
    assert len(columns.segments) > 1
    positions = rng.integers(-1, len(columns), (5, 40))
    queries = rng.normal(size=(5, DIM)).astype(np.float32)
    keys = np.concatenate([s.vectors for s in columns.segments])
    twin = np.where(positions < 0, -np.inf, np.einsum("qd,qnd->qn", queries, keys[positions]))
    assert np.allclose(inner_products(columns, queries, positions), twin, atol=1e-5)
