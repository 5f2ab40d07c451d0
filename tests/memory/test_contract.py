"""What every store of rows does: on disk, in Milvus, and in a twin of plain Python lists that shows what is meant."""

from __future__ import annotations

import copy
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kc.errors import EmptyMemoryError, FingerprintError, RunError, UnknownNameError
from kc.memory.disk import Memory
from kc.memory.milvus.memory import MilvusMemory
from kc.memory.store.info import MemoryInfo
from kc.memory.store.manifest import VersionInfo
from kc.memory.store.table import Labels, RowTable
from kc.types import ClassInfo, Neighbours, Rows

INSTALLED = all(importlib.util.find_spec(name) for name in ("pymilvus", "milvus_lite"))
needs_milvus = pytest.mark.skipif(not INSTALLED, reason="pymilvus and milvus-lite: pip install 'kc-continual[milvus]'")
STORED: dict[Path, Twin] = {}
"""What twins would have on disk."""
INFO = MemoryInfo(
    "lite0", "classification", (28, 28), {0: ClassInfo(0, "cat"), 3: ClassInfo(3, "nothing", background=True)}
)


# -- the twin ----------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    id: int
    key: np.ndarray
    class_id: int
    weight: float
    sample: str
    segment: int
    source: str
    task: int
    visible: bool = True


class Twin:
    """The contract over lists: a version is a copy, search sorts."""

    def __init__(self, path: Path, dim: int, fingerprint: str, info: MemoryInfo) -> None:
        self.path, self.dim, self.fingerprint, self.info = path, dim, fingerprint, info
        self.rows: list[Row] = []
        self.copies: dict[int, list[Row]] = {}
        self.staged: list[Row] = []
        self.next_id = 0
        self.write = True

    @classmethod
    def create(cls, path: Path, *, dim: int, fingerprint: str, info: MemoryInfo = INFO) -> Twin:
        if path in STORED:
            raise RunError(f"{path} already holds a memory")
        STORED[path] = cls(path, dim, fingerprint, info)
        return STORED[path]

    @classmethod
    def open(cls, path: Path, fingerprint: str | None = None, write: bool = False) -> Twin:
        if path not in STORED:
            raise RunError(f"no memory in {path}")
        STORED[path].same(fingerprint)
        if write:
            STORED[path].write = True
            return STORED[path]
        reader = copy.deepcopy(STORED[path])
        reader.write = False
        return reader

    @classmethod
    def open_or_create(cls, path: Path, *, dim: int, fingerprint: str) -> Twin:
        if path not in STORED:
            return cls.create(path, dim=dim, fingerprint=fingerprint)
        if STORED[path].dim != dim:
            raise ValueError(f"{STORED[path].dim} values, asked for {dim}")
        return cls.open(path, fingerprint, write=True)

    def close(self) -> None:
        self.staged, self.write = [], False

    def same(self, fingerprint: str | None) -> None:
        if fingerprint not in (None, self.fingerprint):
            raise FingerprintError(f"{self.fingerprint!r} is not {fingerprint!r}")

    def writer(self) -> None:
        if not self.write:
            raise RunError("open it with write=True")

    def add(self, rows: Rows, task: int, fingerprint: str | None = None) -> int:
        self.writer()
        self.same(fingerprint)
        weights = np.ones(len(rows)) if rows.weight is None else rows.weight
        last = {(rows.sample_id[i], int(rows.segment[i])): i for i in range(len(rows))}
        fresh = []
        for name, i in sorted(last.items(), key=lambda item: item[1]):
            new = Row(
                -1, rows.keys[i].copy(), int(rows.class_id[i]), float(weights[i]), *name, source=rows.source, task=task
            )
            held = self.held(self.staged, new) or self.held(self.rows, new)
            if held is not None and held.class_id == new.class_id:
                if held.key @ new.key > 0.9999:
                    continue
            elif held is not None and new.class_id in self.background:
                continue
            fresh.append(new)
        self.staged = [r for r in self.staged if self.held(fresh, r) is None] + fresh
        return len(fresh)

    @property
    def background(self) -> set[int]:
        return {c.id for c in self.info.classes.values() if c.background} if self.info else set()

    def held(self, rows: list[Row], new: Row) -> Row | None:
        known = [r for r in rows if r.visible and (r.sample, r.segment) == (new.sample, new.segment)]
        return known[-1] if known else None

    def commit(self, task: int) -> int:
        self.writer()
        if self.staged and task < max(self.copies, default=0):
            raise ValueError(f"call rollback({task - 1}) first")
        if task < max(self.copies, default=0):
            return len(self.snapshot(task).__dict__) * 0
        n = len(self.staged)
        for row in self.staged:
            if (old := self.held(self.rows, row)) is not None:
                old.visible = False
            self.rows.append(replace(row, id=self.next_id))
            self.next_id += 1
        self.staged = []
        self.copies[task] = copy.deepcopy(self.rows)
        return n

    def rollback(self, task: int) -> None:
        self.copies = {t: rows for t, rows in self.copies.items() if t <= task}
        self.rows = copy.deepcopy(self.copies[max(self.copies)]) if self.copies else []
        self.staged = []

    def match(self, given: dict[str, Any]) -> Callable[[Row], bool]:
        self.writer()
        columns = {"ids": "id", "sample_id": "sample"}
        wanted = {columns.get(name, name): {v} if isinstance(v, int | str) else {*v} for name, v in given.items()}
        if not wanted:
            raise ValueError("say which rows")
        if not all(0 <= i < self.next_id for i in wanted.get("id", ())):
            raise ValueError("never given out")
        return lambda row: all(getattr(row, name) in values for name, values in wanted.items())

    def remove(self, ids: Any = None, **given: Any) -> int:
        match = self.match(given if ids is None else {"ids": ids, **given})
        gone = [r for r in self.rows if r.visible and match(r)]
        for row in gone:
            row.visible = False
        waiting = [r for r in self.staged if match(r)]
        self.staged = [r for r in self.staged if not match(r)]
        return len(gone) + len(waiting)

    def erase(self, ids: Any = None, **given: Any) -> int:
        match = self.match(given if ids is None else {"ids": ids, **given})
        gone = {r.id for r in self.rows if match(r)}
        waiting = [r for r in self.staged if match(r)]
        self.staged = [r for r in self.staged if not match(r)]
        self.rows = [r for r in self.rows if r.id not in gone]
        self.copies = {t: [r for r in rows if r.id not in gone] for t, rows in self.copies.items()}
        return len(gone) + len(waiting)

    def change(self, ids: Any, column: str, values: Any) -> None:
        ids = [*ids]
        found = {r.id: r for r in self.rows}
        for i in ids:
            if i not in found or not found[i].visible or ids.count(i) > 1:
                raise ValueError("retired, twice, or the memory stores no row of that id")
        for i, value in zip(ids, np.broadcast_to(values, len(ids)).tolist(), strict=True):
            setattr(found[i], column, value)

    def reweight(self, ids: Any, weights: Any) -> None:
        if not (np.isfinite(weights).all() and (np.asarray(weights) >= 0).all()):
            raise ValueError("weights must be finite and at least 0")
        self.change(ids, "weight", weights)

    def relabel(self, ids: Any, class_ids: Any) -> None:
        if (np.asarray(class_ids) < 0).any():
            raise ValueError("class ids must be at least 0")
        self.change(ids, "class_id", class_ids)

    def shown(self, at: int | None = None, **given: Any) -> list[Row]:
        if at is not None and at not in self.copies:
            raise UnknownNameError(f"versions: {', '.join(map(str, self.copies))}")
        rows = [r for r in (self.rows if at is None else self.copies[at]) if r.visible]
        names = {"sample_id": "sample", "classes": "class_id", "sources": "source", "tasks": "task"}
        for name, value in given.items():
            if value is not None:
                wanted = {value} if isinstance(value, int | str) else {*value}
                rows = [r for r in rows if getattr(r, names.get(name, name)) in wanted]
        return rows

    def __len__(self) -> int:
        return len(self.shown())

    def ids(self, at: int | None = None, **given: Any) -> np.ndarray:
        return np.array([r.id for r in self.shown(at, **given)], np.int64)

    def labels(self, at: int | None = None) -> Labels:
        rows = self.shown(at)
        columns = [np.array([getattr(r, c) for r in rows], np.int64) for c in ("id", "class_id", "task")]
        return Labels(*columns, np.array([r.weight for r in rows], np.float32))

    def found(self, ids: Any) -> list[Row]:
        rows = {r.id: r for r in self.rows}
        if not rows.keys() >= {*ids}:
            raise ValueError("the memory stores no row of that id")
        return [rows[i] for i in ids]

    def keys(self, ids: Any) -> np.ndarray:
        return np.array([r.key for r in self.found(ids)], np.float32)

    def rows_of(self, ids: Any) -> RowTable:
        rows = self.found(ids)
        array = {c: np.array([getattr(r, c) for r in rows]) for c in ("id", "class_id", "task", "segment", "visible")}
        return RowTable(
            **array,
            weight=np.array([r.weight for r in rows], np.float32),
            sample_id=tuple(r.sample for r in rows),
            source=tuple(r.source for r in rows),
        )

    def versions(self) -> tuple[VersionInfo, ...]:
        return tuple(VersionInfo(t, 0, len(self.shown(t))) for t in sorted(self.copies))

    def snapshot(self, task: int) -> VersionInfo:
        return VersionInfo(task, 0, len(self.shown(task)))

    def stats(self) -> dict[str, Any]:
        return {
            "rows": len(self),
            "rows_total": len(self.rows),
            "dim": self.dim,
            "fingerprint": self.fingerprint,
            "classes": len({r.class_id for r in self.shown()}),
            "versions": sorted(self.copies),
        }

    def compact(self, history: bool = True) -> bool:
        if not history and self.copies:
            self.rows = self.shown()
            self.copies = {max(self.copies): copy.deepcopy(self.rows)}
        return not history

    def search(
        self,
        queries: np.ndarray,
        k: int,
        classes: Any = None,
        at: int | None = None,
        exclude_ids: Any = None,
        *,
        sources: Any = None,
        tasks: Any = None,
        fingerprint: str | None = None,
    ) -> Neighbours:
        self.same(fingerprint)
        if k < 1:
            raise ValueError("k must be at least 1")
        if queries.shape[1:] != (self.dim,):
            raise ValueError(f"queries must be (Q, {self.dim})")
        rows = [r for r in self.shown(at, classes=classes, sources=sources, tasks=tasks) if r.weight > 0]
        k = min(k, len(rows) - (exclude_ids is not None and bool({r.id for r in rows} & {*exclude_ids})))
        if k < 1:
            raise EmptyMemoryError("no row")
        lines = []
        for number, query in enumerate(queries.astype(np.float64)):
            line = []
            for row in rows:
                if exclude_ids is None or row.id != exclude_ids[number]:
                    key = row.key.astype(np.float64)
                    cosine = float(query @ key / np.linalg.norm(query) / np.linalg.norm(key))
                    line.append((-round(cosine, 12), row.id, row))
            lines.append(sorted(line, key=lambda entry: entry[:2])[:k])
        pick = {c: np.array([[getattr(e[2], c) for e in line] for line in lines]) for c in ("id", "class_id", "task")}
        return Neighbours(
            **pick,
            score=np.array([[-e[0] for e in line] for line in lines], np.float32),
            weight=np.array([[e[2].weight for e in line] for line in lines], np.float32),
        )


# -- the contract ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["disk", pytest.param("milvus", marks=needs_milvus), "twin"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class of a store."""
    monkeypatch.delenv("KC_MILVUS_URI", raising=False)
    yield {"disk": Memory, "milvus": MilvusMemory, "twin": Twin}[request.param]
    STORED.clear()


@pytest.fixture
def store(kind: Any, tmp_path: Path, rows: Callable[..., Rows]) -> Iterator[Any]:
    """Three tasks of ten rows; task t has class t; ids 10t..10t+9; sources a, b, c."""
    memory = kind.create(tmp_path / "m", dim=8, fingerprint="enc:1", info=INFO)
    for t in range(3):
        assert memory.add(rows(10, t, prefix=f"t{t}-", seed=t, source="abc"[t]), t) == 10
        assert memory.commit(t) == 10
    yield memory
    memory.close()


def same(a: Neighbours, b: Neighbours) -> bool:
    return all(np.array_equal(getattr(a, c), getattr(b, c)) for c in ("id", "score", "class_id", "weight", "task"))


class TestContract:
    def test_what_is_staged_is_not_seen(self, kind: Any, tmp_path: Path, rows: Callable[..., Rows]) -> None:
        memory = kind.create(tmp_path / "m", dim=8, fingerprint="f")
        assert memory.add(rows(5), 0) == 5
        assert len(memory) == 0
        with pytest.raises(EmptyMemoryError):
            memory.search(rows(1).keys, 1)
        memory.close()
        with pytest.raises(RunError, match="write=True"):
            memory.add(rows(5), 0)
        again = kind.open(tmp_path / "m", write=True)
        assert again.commit(0) == 0
        again.close()

    def test_a_row_is_stored_once(self, store: Any, kind: Any, rows: Callable[..., Rows]) -> None:
        again = rows(10, 2, prefix="t2-", seed=2, source="c")
        assert store.add(again, 2) == 0  # stored: a task replayed
        fresh = rows(4, 2, prefix="x")
        assert store.add(fresh, 2) == 4
        assert store.add(fresh, 2) == 0  # staged: the padding of a distributed sampler
        assert store.add(replace(fresh, segment=fresh.segment + 1), 2) == 4  # other regions of the same samples
        assert [store.commit(2), store.commit(2), store.commit(1)] == [8, 0, 0]
        store.close()
        reopened = kind.open(store.path, write=True)
        assert reopened.add(fresh, 2) == 0
        assert len(reopened) == 38
        reopened.close()

    def test_another_label_of_a_region_replaces_its_row(self, store: Any, kind: Any, rows: Callable[..., Rows]) -> None:
        before = store.ids(sample_id="t2-4").tolist()
        assert store.add(rows(10, [2, 2, 2, 2, 7, 2, 2, 2, 2, 2], prefix="t2-", seed=2, source="c"), 3) == 1
        assert store.commit(3) == 1
        assert len(store) == 30
        (new,) = store.ids(sample_id="t2-4").tolist()
        assert (store.rows_of([new]).class_id[0], store.rows_of([new]).task[0]) == (7, 3)
        assert store.ids(at=2, sample_id="t2-4").tolist() == before  # the version before still shows the old label
        assert [v.rows for v in store.versions()] == [10, 20, 30, 30]
        assert store.search(store.keys([new]), 1).class_id.tolist() == [[7]]
        assert store.search(store.keys([new]), 1, at=2).class_id.tolist() == [[2]]
        store.rollback(2)
        assert store.ids(sample_id="t2-4").tolist() == before

    def test_a_replaced_row_is_counted_by_an_opened_store(
        self, store: Any, kind: Any, rows: Callable[..., Rows]
    ) -> None:
        store.add(rows(10, 5, prefix="t2-", seed=2, source="c"), 3)
        assert store.add(rows(10, 6, prefix="t2-", seed=2, source="c"), 3) == 10  # staged rows are replaced too
        assert store.commit(3) == 10
        store.close()
        opened = kind.open(store.path, write=True)
        assert (len(opened), len(opened.ids(class_id=[2])), len(opened.ids(class_id=[6]))) == (30, 0, 10)
        assert opened.add(rows(10, 6, prefix="t2-", seed=2, source="c"), 4) == 0
        opened.close()

    def test_another_key_replaces_a_row_and_another_source_does_not(
        self, store: Any, kind: Any, rows: Callable[..., Rows]
    ) -> None:
        assert store.add(rows(10, 2, prefix="t2-", seed=2, source="other"), 3) == 0
        assert store.add(rows(10, 1, prefix="t1-", seed=9, source="other"), 3) == 10
        store.commit(3)
        assert [len(store.ids(source=[name])) for name in ("a", "b", "c", "other")] == [10, 0, 10, 10]

    def test_background_replaces_no_class(self, store: Any, kind: Any, rows: Callable[..., Rows]) -> None:
        assert store.add(rows(10, 3, prefix="t2-", seed=2, source="c"), 3) == 0  # 3 is the background of INFO
        assert store.add(rows(2, 3, prefix="new", seed=5), 3) == 2
        store.commit(3)
        assert store.add(rows(2, 1, prefix="new", seed=5), 4) == 2  # a class replaces background
        store.commit(4)
        assert (len(store), len(store.ids(class_id=[3])), len(store.ids(at=3, class_id=[3]))) == (32, 0, 2)

    def test_a_staged_row_that_is_dropped_replaces_nothing(
        self, store: Any, kind: Any, rows: Callable[..., Rows]
    ) -> None:
        store.add(rows(10, 5, prefix="t2-", seed=2, source="c"), 3)
        assert store.remove(class_id=5) == 10
        store.commit(3)
        assert (len(store), len(store.ids(class_id=[2]))) == (30, 10)

    def test_opening(self, store: Any, kind: Any, tmp_path: Path) -> None:
        assert (store.dim, store.fingerprint, store.info) == (8, "enc:1", INFO)
        with pytest.raises(RunError, match="no memory"):
            kind.open(tmp_path / "nowhere")
        store.close()
        with pytest.raises(RunError, match="already holds"):
            kind.create(store.path, dim=8, fingerprint="f")
        with pytest.raises(ValueError, match="8 values, asked for 9"):
            kind.open_or_create(store.path, dim=9, fingerprint="enc:1")
        again = kind.open_or_create(store.path, dim=8, fingerprint="enc:1")
        assert len(again) == 30
        again.close()

    def test_fingerprints_are_compared(self, store: Any, kind: Any, rows: Callable[..., Rows]) -> None:
        for wrong in (
            lambda: kind.open(store.path, fingerprint="enc:2"),
            lambda: store.add(rows(1), 2, fingerprint="enc:2"),
            lambda: store.search(rows(1).keys, 1, fingerprint="enc:2"),
        ):
            with pytest.raises(FingerprintError, match=r"enc:1.*enc:2"):
                wrong()

    def test_neighbours(self, store: Any, rows: Callable[..., Rows]) -> None:
        queries = rows(6, seed=9).keys
        keys = np.concatenate([rows(10, seed=t).keys for t in range(3)]).astype(np.float64)
        cosine = queries.astype(np.float64) @ keys.T
        found = store.search(queries, 4)
        assert np.array_equal(found.id, np.argsort(-cosine, axis=1)[:, :4])
        np.testing.assert_allclose(found.score, -np.sort(-cosine, axis=1)[:, :4], atol=1e-6)
        assert np.array_equal(found.class_id, found.id // 10)
        assert np.array_equal(found.task, found.id // 10)
        assert store.search(queries, 99).id.shape == (6, 30)
        for narrowed, wanted in (
            ({"classes": [1]}, {1}),
            ({"tasks": [0, 2]}, {0, 2}),
            ({"sources": "c"}, {2}),
            ({"classes": [0, 1], "sources": ["b", "c"]}, {1}),
        ):
            few = store.search(queries, 99, **narrowed)
            assert few.id.shape == (6, 10 * len(wanted))
            assert set(np.unique(few.class_id)) == wanted
        own = store.search(keys[:3], 1, exclude_ids=np.array([0, -1, 2]))
        assert own.id[1, 0] == 1
        assert own.id[0, 0] != 0
        assert own.id[2, 0] != 2
        with pytest.raises(EmptyMemoryError):
            store.search(queries, 1, classes=[])
        with pytest.raises(EmptyMemoryError):
            store.search(queries, 1, classes=[7])
        with pytest.raises(ValueError, match="k must"):
            store.search(queries, 0)
        with pytest.raises(ValueError, match="queries must"):
            store.search(queries[:, :4], 1)

    def test_near_duplicates_find_themselves_and_ties_go_to_the_lowest_id(self, store: Any) -> None:
        rng = np.random.default_rng(3)
        frames = np.tile(rng.normal(size=(1, 8)), (40, 1))
        frames[1:] += rng.normal(size=(39, 8)) * 1e-4
        frames = (frames / np.linalg.norm(frames, axis=1, keepdims=True)).astype(np.float32)
        frames[30:] = frames[0]  # ten more of the first
        names = tuple(f"frame{i}" for i in range(40))
        store.add(Rows(frames, np.full(40, 5), names, np.zeros(40, np.int64)), 3)
        store.commit(3)
        found = store.search(frames, 1).id[:, 0] - 30
        assert found.tolist() == [*range(30), *([0] * 10)]

    def test_versions_replay(self, store: Any, rows: Callable[..., Rows]) -> None:
        keys = rows(10, seed=0).keys  # those of task 0
        assert [store.search(keys, 99, at=t).id.shape[1] for t in range(3)] == [10, 20, 30]
        before = store.search(keys, 30, at=2)
        store.relabel([0, 1], [5, 6])
        store.reweight([2], [0.5])
        store.remove([3])
        assert same(before, store.search(keys, 30, at=2))
        now = store.search(keys[:3], 1)
        assert now.class_id[:, 0].tolist() == [5, 6, 0]
        assert now.weight[:, 0].tolist() == [1, 1, 0.5]
        assert 3 not in store.search(keys, 99).id
        assert store.commit(2) == 0  # names the present state
        assert store.snapshot(2).rows == 29
        assert 3 not in store.search(keys, 99, at=2).id
        assert 3 in store.search(keys, 99, at=1).id
        with pytest.raises(UnknownNameError, match="versions: 0, 1, 2"):
            store.snapshot(7)

    def test_rows_of_an_earlier_task_are_refused(self, store: Any, rows: Callable[..., Rows]) -> None:
        store.add(rows(1, prefix="late"), 1)
        with pytest.raises(ValueError, match=r"rollback\(0\)"):
            store.commit(1)

    def test_retire_by_each_criterion(self, store: Any, rows: Callable[..., Rows]) -> None:
        assert store.remove(class_id=0, source="b") == 0  # every criterion must be met
        assert store.remove(sample_id=["t0-1", "t0-2", "nobody"]) == 2
        assert store.remove(task=0) == 8
        assert store.remove(source="b") == 10
        assert store.remove([20, 21]) == 2
        assert store.remove([20, 21]) == 0
        store.add(rows(3, 2, prefix="staged"), 2)
        assert store.remove(class_id=[2]) == 8 + 3
        assert len(store) == 0
        assert store.stats()["rows_total"] == 30
        with pytest.raises(ValueError, match="say which rows"):
            store.remove()
        with pytest.raises(ValueError, match="never given out"):
            store.remove([30])
        assert store.add(rows(10, 2, prefix="t2-", seed=2), 2) == 10  # a retired row may come back ...
        store.commit(2)
        assert store.ids(sample_id="t2-9").tolist() == [39]  # ... under a new id

    def test_reweight_and_relabel(self, store: Any) -> None:
        store.reweight(range(10), 2.0)
        store.reweight([0, 1], [0.0, 0.5])
        store.relabel([1], [9])
        info = store.rows_of([1, 0, 25])
        assert info.weight.tolist() == [0.5, 0.0, 1.0]
        assert info.class_id.tolist() == [9, 0, 2]
        assert 0 not in store.search(np.eye(8), 99).id  # weight 0 hides
        assert len(store) == 30
        store.remove([1])
        for wrong in ([1], [99], [2, 2]):
            with pytest.raises(ValueError, match=r"retired|stores no row|twice"):
                store.reweight(wrong, 1.0)
        for value in (-1.0, np.nan, np.inf):
            with pytest.raises(ValueError, match="finite"):
                store.reweight([2], [value])
        with pytest.raises(ValueError, match="at least 0"):
            store.relabel([2], [-1])

    def test_erase_reaches_every_version(self, store: Any, rows: Callable[..., Rows]) -> None:
        store.relabel([10, 0], [7, 8])
        store.remove([12, 3])
        assert store.erase(source="b") == 10
        assert [v.rows for v in store.versions()] == [10, 10, 20]
        assert store.rows_of([0, 3]).class_id.tolist() == [8, 0]
        assert not store.rows_of([3]).visible[0]
        with pytest.raises(ValueError, match=r"no row with id 12|of that id"):
            store.rows_of([12])
        assert store.erase(class_id=8) == 1  # classes are those of now
        assert 0 not in store.search(rows(1, seed=0).keys, 99, at=0).id
        assert store.add(rows(10, 1, prefix="t1-", seed=1), 2) == 10  # may be learned again
        assert store.erase(sample_id="t1-0") == 1  # staged

    def test_rollback(self, store: Any, kind: Any, rows: Callable[..., Rows]) -> None:
        store.remove(class_id=0)
        store.reweight([15], [3.0])
        store.add(rows(4, prefix="staged"), 2)
        store.rollback(1)
        assert [v.task for v in store.versions()] == [0, 1]
        assert len(store) == 20
        assert store.rows_of([15]).weight[0] == 1
        assert store.stats()["rows_total"] == 20
        assert store.add(rows(10, 2, prefix="t2-", seed=2), 2) == 10
        assert store.commit(2) == 10
        assert store.ids(task=2).tolist() == [*range(30, 40)]  # ids are never used again
        store.rollback(-1)
        assert (len(store), store.versions()) == (0, ())
        store.close()
        assert len(kind.open(store.path)) == 0

    def test_attribution(self, store: Any, rows: Callable[..., Rows]) -> None:
        store.remove([12])
        info = store.rows_of([25, 12, 0])
        assert info.sample_id == ("t2-5", "t1-2", "t0-0")
        assert info.source == ("c", "b", "a")
        assert info.task.tolist() == [2, 1, 0]
        assert info.segment.tolist() == [0, 0, 0]
        assert info.visible.tolist() == [True, False, True]
        assert np.array_equal(store.keys([25, 0]), np.stack([rows(10, seed=2).keys[5], rows(10, seed=0).keys[0]]))
        labels = store.labels(at=1)
        assert labels.id.tolist() == [*range(20)]
        assert labels.class_id.tolist() == [0] * 10 + [1] * 10
        assert labels.weight.dtype == np.float32
        assert store.ids(source=["a", "c"], task=[1, 2], at=2).tolist() == [*range(20, 30)]

    def test_names_of_any_alphabet(self, store: Any, rows: Callable[..., Rows]) -> None:
        names = ("a\nb", "ü\u2028x", '"\\')
        store.add(replace(rows(3), sample_id=names, source="日本"), 3)
        store.commit(3)
        assert store.rows_of([30, 31, 32]).sample_id == names
        assert store.ids(sample_id='"\\').tolist() == [32]
        assert store.ids(source="日本").tolist() == [30, 31, 32]

    def test_a_reader_keeps_its_state(self, store: Any, kind: Any, rows: Callable[..., Rows]) -> None:
        reader = kind.open(store.path)
        store.remove(class_id=0)
        store.relabel([15], [9])
        store.add(rows(3, 4, prefix="new"), 3)
        store.commit(3)
        assert len(reader) == 30
        assert reader.rows_of([15]).class_id[0] == 1
        with pytest.raises(RunError, match="write=True"):
            reader.remove([0])
        later = kind.open(store.path)
        assert len(later) == 23
        reader.close()
        later.close()

    def test_only_the_present_stays(self, store: Any) -> None:
        store.remove(class_id=0)
        store.relabel([15], [9])
        store.compact(history=False)
        assert [(v.task, v.rows) for v in store.versions()] == [(2, 20)]
        assert store.rows_of([15]).class_id[0] == 9
        assert store.stats()["rows_total"] == 20

    def test_stats(self, store: Any) -> None:
        store.remove([0])
        wanted = {"rows": 29, "rows_total": 30, "dim": 8, "fingerprint": "enc:1", "classes": 3, "versions": [0, 1, 2]}
        assert {name: store.stats()[name] for name in wanted} == wanted


# -- random histories --------------------------------------------------------------------------------------------------

POOL = np.random.default_rng(0).normal(size=(12, 4))
POOL = (POOL / np.linalg.norm(POOL, axis=1, keepdims=True)).astype(np.float32)
"""Few distinct vectors: ties are common."""


class Machine(RuleBasedStateMachine):
    """Every call is made to Milvus and to the twin."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.stores: list[Any] = [
            c.create(self.folder / "m", dim=4, fingerprint="f", info=INFO) for c in (MilvusMemory, Twin)
        ]
        self.task = 0

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        STORED.clear()
        shutil.rmtree(self.folder)

    def both(self, call: Callable[[Any], Any]) -> Any:
        a, b = (call(store) for store in self.stores)
        assert a == b
        return a

    @initialize()
    def begin(self) -> None:
        for task in range(2):
            self.add([(10 * task + i, (3 * i + task) % 12, i % 4, 1.0) for i in range(8)])
            self.commit(next_task=True)

    @rule(
        rows=st.lists(
            st.tuples(st.integers(0, 20), st.integers(0, 11), st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0])),
            min_size=1,
            max_size=6,
        )
    )
    def add(self, rows: list[tuple[int, int, int, float]]) -> None:
        names, vectors, classes, weights = zip(*rows, strict=True)
        batch = Rows(
            POOL[list(vectors)],
            np.array(classes),
            tuple(f"s{n}" for n in names),
            np.zeros(len(rows), np.int64),
            weight=np.array(weights, np.float32),
        )
        self.both(lambda m: m.add(batch, self.task))

    @rule(next_task=st.booleans())
    def commit(self, next_task: bool) -> None:
        self.both(lambda m: m.commit(self.task))
        self.task += next_task

    @rule(class_id=st.integers(0, 3))
    def retire(self, class_id: int) -> None:
        self.both(lambda m: m.remove(class_id=class_id))

    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        ids = data.draw(st.sets(st.integers(0, self.stores[1].next_id - 1), min_size=1, max_size=4))
        self.both(lambda m: m.erase(ids))

    @precondition(lambda self: len(self.stores[1]))
    @rule(data=st.data(), weight=st.sampled_from([0.0, 0.25, 2.0]), class_id=st.integers(0, 3))
    def change(self, data: st.DataObject, weight: float, class_id: int) -> None:
        ids = data.draw(st.sets(st.sampled_from(self.stores[1].ids().tolist()), min_size=1, max_size=3))
        self.both(lambda m: m.reweight(ids, weight))
        self.both(lambda m: m.relabel(ids, class_id))

    @rule(steps=st.integers(0, 2))
    def rollback(self, steps: int) -> None:
        back = self.task - steps
        self.both(lambda m: m.rollback(back))
        self.task = max([0, *self.stores[1].copies, min(self.task, back + 1)])

    @rule()
    def forget_history(self) -> None:
        for store in self.stores:
            store.compact(history=False)

    @rule()
    def reopen(self) -> None:
        for store in self.stores:
            store.close()
        self.stores = [c.open(self.folder / "m", "f", write=True) for c in (MilvusMemory, Twin)]

    @rule(
        query=st.integers(0, 11), k=st.integers(1, 12), classes=st.none() | st.sets(st.integers(0, 3)), data=st.data()
    )
    def search(self, query: int, k: int, classes: set[int] | None, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from([None, *self.stores[1].copies]))
        asked = POOL[query : query + 1], k, classes, at
        try:
            wanted = self.stores[1].search(*asked)
        except EmptyMemoryError:
            with pytest.raises(EmptyMemoryError):
                self.stores[0].search(*asked)
            return
        found = self.stores[0].search(*asked)
        assert found.id.tolist() == wanted.id.tolist()
        assert found.class_id.tolist() == wanted.class_id.tolist()
        assert found.weight.tolist() == wanted.weight.tolist()
        assert found.task.tolist() == wanted.task.tolist()

    @invariant()
    def counts(self) -> None:
        self.both(lambda m: m.ids().tolist())
        self.both(lambda m: {v.task: v.rows for v in m.versions()})


@needs_milvus
def test_random_histories_in_milvus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KC_MILVUS_URI", raising=False)
    config = settings(
        max_examples=12,
        stateful_step_count=20,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=config)
