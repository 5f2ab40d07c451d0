"""Many rows: near duplicates find themselves, and a million rows keep every promise."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from kc.memory.disk import Memory
from kc.types import Rows


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("frames", [2, 20])
def test_ten_thousand_near_duplicates_find_themselves(tmp_path: Path, frames: int) -> None:
    """Scenes of `frames` video frames 3e-4 apart, stored and searched as float32."""
    rng = np.random.default_rng(0)
    scenes = np.repeat(unit(rng.normal(size=(10_000 // frames, 64))), frames, axis=0)
    keys = unit(scenes + 3e-4 * unit(rng.normal(size=scenes.shape)))
    with Memory.create(tmp_path / "m", dim=64, fingerprint="f") as memory:
        names = tuple(f"s{i}" for i in range(10_000))
        memory.add(Rows(keys, np.zeros(10_000, np.int64), names, np.zeros(10_000, np.int64)), 0)
        memory.commit(0)
        found = memory.search(memory.keys(memory.ids()), 1)
    assert (found.id[:, 0] == np.arange(10_000)).all()
    rough = faiss.knn(keys, keys, 1, metric=faiss.METRIC_INNER_PRODUCT)[1]
    assert (rough[:, 0] == np.arange(10_000)).mean() < 0.95  # or the test would prove nothing


@pytest.mark.slow
def test_a_million_rows(tmp_path: Path) -> None:
    """Versions replay, retiring and compaction change no other answer, erased bytes are gone, a copy reads it all."""
    rng = np.random.default_rng(1)
    n_tasks, n, dim = 40, 25_000, 32
    queries = unit(rng.normal(size=(50, dim)))
    with Memory.create(tmp_path / "m", dim=dim, fingerprint="f") as memory:
        for t in range(n_tasks):
            keys, classes = unit(rng.normal(size=(n, dim))), rng.integers(0, 1000, n)
            memory.add(Rows(keys, classes, tuple(f"{t}-{i}" for i in range(n)), np.zeros(n, np.int64)), t)
            memory.commit(t)
        assert len(memory) == n_tasks * n
        sample = np.sort(rng.choice(n_tasks * n, 500, replace=False))
        assert np.array_equal(memory.search(memory.keys(sample), 1).id[:, 0], sample)
        versions = [memory.search(queries, 10, at=t) for t in (0, 9, 39)]
        gone = memory.ids(class_id=7)
        assert memory.remove(class_id=7) == len(gone) > 500
        assert memory.remove(sample) == 500 - np.isin(sample, gone).sum()
        now = memory.search(queries, 10)
        assert not np.isin(now.id, np.concatenate([gone, sample])).any()
        assert memory.compact()
        assert len(memory._manifest.segments) == 20  # two tasks each: three would pass 65,536 rows
        for before, after in zip(
            [*versions, now],
            [*(memory.search(queries, 10, at=t) for t in (0, 9, 39)), memory.search(queries, 10)],
            strict=True,
        ):
            for name in ("id", "score", "class_id", "weight", "task"):
                assert np.array_equal(getattr(before, name), getattr(after, name))
        doomed = memory.keys(gone[:5])
        assert memory.erase(gone) == len(gone)
        for path in memory.path.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert not any(key.tobytes() in content for key in doomed)
        found = memory.search(queries, 10)
        assert np.array_equal(found.id, now.id)
        assert np.array_equal(found.score, now.score)
    reader = Memory.open(tmp_path / "m")
    assert reader.verify()["rows"] == n_tasks * n - len(gone)
    assert reader.export(tmp_path / "rows.npz") == len(reader)
