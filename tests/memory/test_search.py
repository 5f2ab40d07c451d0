"""Search against hand-solved cases and a float64 twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from kc.errors import EmptyMemoryError
from kc.memory.disk import Memory
from kc.memory.search import blocks as blocks_module
from kc.memory.search import exact as search_module
from kc.types import Neighbours, Rows


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def store(path: Path, keys: np.ndarray, class_id: np.ndarray | int = 0, n_commits: int = 1) -> Memory:
    n = len(keys)
    classes = np.broadcast_to(np.asarray(class_id, np.int64), (n,)).copy()
    memory = Memory.create(path, dim=keys.shape[1], fingerprint="f")
    for t, part in enumerate(np.array_split(np.arange(n), n_commits)):
        names = tuple(f"s{i}" for i in part)
        memory.add(Rows(keys[part], classes[part], names, np.zeros(len(part), np.int64), source=f"src{t}"), t)
        memory.commit(t)
    return memory


def twin(keys: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids and cosines of the k best allowed rows, all in float64, ties by lowest id."""
    x, q = keys.astype(np.float64), queries.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    s = np.where(allowed, q @ x.T, -np.inf)
    order = np.argsort(-s, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(s, order, 1)


def same(found: Neighbours, ids: np.ndarray, scores: np.ndarray) -> None:
    assert np.array_equal(found.id, ids)
    assert np.abs(found.score - scores).max() < 1e-6


def test_four_points_by_hand(tmp_path: Path) -> None:
    keys = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], np.float32)
    memory = store(tmp_path / "m", keys, np.array([0, 1, 2, 3]))
    found = memory.search(np.array([[1, 0], [0, 2], [-0.6, 0.8]]), 3)
    assert found.id.tolist() == [[0, 1, 2], [2, 1, 0], [2, 3, 1]]  # the second: rows 0 and 3 tie at 0
    assert np.allclose(found.score, [[1, 0.8, 0], [1, 0.6, 0], [0.8, 0.6, 0]], atol=1e-7)
    assert found.class_id.tolist() == found.id.tolist()
    assert found.weight.tolist() == np.ones((3, 3)).tolist()
    for name, kind in (("id", "i8"), ("score", "f4"), ("class_id", "i8"), ("weight", "f4"), ("task", "i8")):
        assert getattr(found, name).dtype == kind


def test_k_is_clamped_and_wrong_calls_are_answered(three: Memory, rows: Callable[..., Rows]) -> None:
    query = rows(2).keys
    assert three.search(query, 1000).id.shape == (2, 30)
    assert three.search(query[:0], 4).id.shape == (0, 4)
    assert three.search(query, 1000, exclude_ids=[0, -1]).id.shape == (2, 29)
    with pytest.raises(ValueError, match="at least 1"):
        three.search(query, 0)
    with pytest.raises(ValueError, match=r"\(Q, 8\), got \(2, 4\)"):
        three.search(query[:, :4], 1)
    with pytest.raises(ValueError, match="not finite"):
        three.search(query * np.nan, 1)
    with pytest.raises(ValueError, match="exclude_ids"):
        three.search(query, 1, exclude_ids=[1])
    for nothing in ({"classes": [77]}, {"classes": []}, {"tasks": [9]}, {"sources": "z"}):
        with pytest.raises(EmptyMemoryError):
            three.search(query, 1, **nothing)
    three.remove(range(1, 30))
    with pytest.raises(EmptyMemoryError):
        three.search(query, 1, exclude_ids=[0, -1])


@pytest.mark.parametrize("n_commits", [1, 4])
@pytest.mark.parametrize("block", [65_536, 100])
def test_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_commits: int, block: int) -> None:
    """Every filter, in blocks and segments of several sizes, gathered and mapped."""
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", block)
    monkeypatch.setattr(search_module, "QUERY_BLOCK", 13)
    rng = np.random.default_rng(5)
    keys, queries = unit(rng.normal(size=(600, 24))), rng.normal(size=(30, 24)) * 7
    classes = rng.integers(0, 6, 600)
    memory = store(tmp_path / "m", keys, classes, n_commits)
    all_rows = np.ones(600, bool)
    same(memory.search(queries, 10), *twin(keys, queries, 10, all_rows))
    same(memory.search(queries, 10, classes=[0, 3]), *twin(keys, queries, 10, np.isin(classes, [0, 3])))
    task = np.repeat(np.arange(n_commits), 600 // n_commits)
    for t in range(n_commits):
        same(memory.search(queries, 40, at=t), *twin(keys, queries, 40, task <= t))
        same(
            memory.search(queries, 40, tasks=[t], classes=range(4)),
            *twin(keys, queries, 40, (task == t) & (classes < 4)),
        )
        same(memory.search(queries, 40, sources=f"src{t}"), *twin(keys, queries, 40, task == t))
    gone, hidden = rng.choice(600, 60, replace=False), rng.choice(600, 60, replace=False)
    memory.remove(gone)
    memory.reweight(np.setdiff1d(hidden, gone), 0.0)
    left = all_rows.copy()
    left[gone] = left[hidden] = False
    same(memory.search(queries, 25), *twin(keys, queries, 25, left))
    monkeypatch.setenv("KC_CACHE_BYTES", "0")
    same(memory.search(queries, 26, classes=[1, 2]), *twin(keys, queries, 26, left & np.isin(classes, [1, 2])))
    same(memory.search(queries, 600), *twin(keys, queries, int(left.sum()), left))


def test_leave_one_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    keys = unit(rng.normal(size=(200, 16)))
    memory = store(tmp_path / "m", keys)
    skip = np.where(np.arange(200) % 3 == 0, -1, np.arange(200))
    allowed = np.arange(200)[None] != skip[:, None]
    same(memory.search(keys, 7, exclude_ids=skip), *twin(keys, keys, 7, allowed))
    same(memory.search(keys, 7, exclude_ids=np.full(200, 9999)), *twin(keys, keys, 7, np.ones(200, bool)))


@pytest.mark.parametrize("cluster", [2, 2000])
def test_a_row_finds_itself_among_near_duplicates(tmp_path: Path, cluster: int) -> None:
    """2,000 rows 3e-4 apart, as pairs of video frames or as one scene: float32 alone confuses a third of them."""
    rng = np.random.default_rng(7)
    scenes = np.repeat(unit(rng.normal(size=(2000 // cluster, 64))), cluster, axis=0)
    keys = unit(scenes + 3e-4 * unit(rng.normal(size=(2000, 64))))
    memory = store(tmp_path / "m", keys)
    found = memory.search(keys, 1)
    assert (found.id[:, 0] == np.arange(2000)).all()
    rough = faiss.knn(keys, keys, 1, metric=faiss.METRIC_INNER_PRODUCT)[1]
    assert (rough[:, 0] == np.arange(2000)).mean() < 0.9  # or the test would prove nothing


def test_equal_rows_come_by_lowest_id(tmp_path: Path) -> None:
    """More copies than the short list holds, in several segments, in front of better and behind worse rows."""
    rng = np.random.default_rng(8)
    keys = unit(rng.normal(size=(400, 33)))
    keys[50:350] = keys[50]
    memory = store(tmp_path / "m", keys, n_commits=3)
    found = memory.search(np.concatenate([keys[50:51], unit(rng.normal(size=(20, 33)))]), 60)
    assert found.id[0].tolist() == list(range(50, 110))
    for ids in found.id[1:]:
        copies = [i for i in ids if 50 <= i < 350]
        assert copies == list(range(50, 50 + len(copies)))
    zero = memory.search(np.zeros((1, 33)), 5)
    assert zero.id[0].tolist() == [0, 1, 2, 3, 4]
    assert (zero.score == 0).all()


def test_the_answer_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    keys = unit(rng.normal(size=(3000, 40)) * 0.05 + 1)
    queries = unit(rng.normal(size=(50, 40)) * 0.05 + 1)
    memory = store(tmp_path / "m", keys, n_commits=2)
    whole = memory.search(queries, 20)
    single = [memory.search(q[None], 20) for q in queries]
    assert np.array_equal(whole.id, np.concatenate([s.id for s in single]))
    assert np.array_equal(whole.score, np.concatenate([s.score for s in single]))


def test_faiss_is_left_as_it_was(three: Memory) -> None:
    def settings() -> list[int]:
        names = ("threshold", "database_bs", "query_bs")
        return [faiss.omp_get_max_threads(), *(getattr(faiss.cvar, f"distance_compute_blas_{n}") for n in names)]

    before = settings()
    three.search(np.eye(8), 3)
    assert settings() == before


def test_float64_scores_only_what_float32_cannot_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows a tenth apart: the k best and no spare one, and with a row to be left out one more. Closer ones: all."""
    angle = np.linspace(0.1, 3.0, 30)
    keys = np.concatenate([[np.cos(angle), np.sin(angle)], [np.cos(angle / 1e7), np.sin(angle / 1e7)]], axis=1).T
    memory = store(tmp_path / "m", unit(keys), np.repeat([0, 1], 30))
    scored: list[int] = []
    score = search_module.Search._score

    def counted(self: search_module.Search, exact: np.ndarray, position: np.ndarray) -> np.ndarray:
        scored.append(position.shape[1])
        return score(self, exact, position)

    monkeypatch.setattr(search_module.Search, "_score", counted)
    query = unit(np.array([[1.0, 0.0]]))
    assert memory.search(query, 5, classes=[0]).id.tolist() == [[0, 1, 2, 3, 4]]
    assert memory.search(query, 5, classes=[0], exclude_ids=[2]).id.tolist() == [[0, 1, 3, 4, 5]]
    assert scored == [5, 6]
    same(memory.search(query, 5, classes=[1]), *twin(unit(keys), query, 5, np.arange(60) >= 30))
    assert scored[2] > 6


def test_weights_and_classes_of_the_version_come_along(three: Memory, rows: Callable[..., Rows]) -> None:
    three.add(replace(rows(1, 3, "w", seed=50), weight=np.array([0.25], np.float32)), 3)
    three.commit(3)
    found = three.search(rows(1, seed=50).keys, 1)
    assert (found.id[0, 0], found.class_id[0, 0], found.weight[0, 0], found.task[0, 0]) == (30, 3, 0.25, 3)


def test_the_answer_does_not_depend_on_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One query and many, all rows and filtered ones, kept or copied anew: shared out among three threads or not."""
    rng = np.random.default_rng(3)
    keys, class_id = unit(rng.normal(size=(4000, 12))), rng.integers(0, 5, 4000)
    for name, value in (("SCRATCH_ROWS", 16), ("BLOCK_ROWS", 3000), ("COPIED_ROWS", 300)):
        monkeypatch.setattr(blocks_module, name, value)
    monkeypatch.setattr(search_module, "MIN_THREAD_WORK", 100)
    monkeypatch.setenv("KC_CACHE_BYTES", "0")
    memory = store(tmp_path / "m", keys, class_id, n_commits=2)
    memory.remove(ids=np.arange(0, 4000, 9))
    gone = np.arange(4000) % 9 == 0
    for n_queries in (1, 2, 40):
        queries = unit(rng.normal(size=(n_queries, 12)))
        for classes in (None, [0], [1, 2, 3]):
            allowed = ~gone & (True if classes is None else np.isin(class_id, classes))
            answers = []
            for threads in (1, 3):
                monkeypatch.setattr(faiss, "omp_get_max_threads", lambda threads=threads: threads)
                answers.append(memory.search(queries, 7, classes=classes))
                same(answers[-1], *twin(keys, queries, 7, allowed))
            assert answers[0].score.tobytes() == answers[1].score.tobytes()
