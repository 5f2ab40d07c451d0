"""Random sequences of everything a memory does give the answers of a twin that keeps plain Python lists."""

from __future__ import annotations

import copy
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

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

from kc.errors import EmptyMemoryError
from kc.memory.disk import Memory
from kc.types import Rows

DIM = 4
# Few distinct vectors: ties are common.
POOL = np.random.default_rng(0).normal(size=(12, DIM))
POOL = (POOL / np.linalg.norm(POOL, axis=1, keepdims=True)).astype(np.float32)


@dataclass
class Row:
    id: int
    key: np.ndarray
    class_id: int
    weight: float
    sample: str
    task: int


@dataclass
class Twin:
    now: dict[int, Row] = field(default_factory=dict)
    versions: dict[int, dict[int, Row]] = field(default_factory=dict)
    staged: dict[str, Row] = field(default_factory=dict)
    next_id: int = 0

    def nearest(self, rows: dict[int, Row], query: np.ndarray, k: int, classes: set[int] | None) -> list[Row]:
        seen = [r for r in rows.values() if r.weight > 0 and (classes is None or r.class_id in classes)]
        q = query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))
        cosines = {r.id: float(np.einsum("d,d->", q, r.key / np.linalg.norm(r.key.astype(np.float64)))) for r in seen}
        return sorted(seen, key=lambda r: (-round(cosines[r.id], 12), r.id))[:k]


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.memory = Memory.create(self.folder / "m", dim=DIM, fingerprint="f")
        self.twin = Twin()
        self.task = 0

    def teardown(self) -> None:
        self.memory.close()
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        """Two tasks, so that every rule finds rows to work on."""
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
        batch = Rows(
            POOL[[v for _, v, _, _ in rows]],
            np.array([c for _, _, c, _ in rows]),
            tuple(f"s{n}" for n, _, _, _ in rows),
            np.zeros(len(rows), np.int64),
            weight=np.array([w for *_, w in rows], np.float32),
        )
        known = {r.sample: r for r in self.twin.now.values()} | self.twin.staged
        fresh = {}
        for n, v, c, w in {n: (n, v, c, w) for n, v, c, w in rows}.values():  # the last of a region counts
            new = Row(-1, POOL[v], c, w, f"s{n}", self.task)
            held = known.get(new.sample)
            if held is None or held.class_id != c or held.key @ new.key < 0.9999:
                fresh[new.sample] = new
        last = {n: i for i, (n, *_) in enumerate(rows)}
        for n in sorted(last, key=last.__getitem__):
            if (row := fresh.get(f"s{n}")) is not None:
                self.twin.staged.pop(row.sample, None)
                self.twin.staged[row.sample] = row
        assert self.memory.add(batch, self.task) == len(fresh)

    @rule(next_task=st.booleans())
    def commit(self, next_task: bool) -> None:
        assert self.memory.commit(self.task) == len(self.twin.staged)
        for row in self.twin.staged.values():
            row.id = self.twin.next_id
            self.twin.now = {i: r for i, r in self.twin.now.items() if r.sample != row.sample}
            self.twin.now[row.id] = row
            self.twin.next_id += 1
        self.twin.staged = {}
        self.twin.versions[self.task] = copy.deepcopy(self.twin.now)
        self.task += next_task

    @rule(class_id=st.integers(0, 3))
    def retire(self, class_id: int) -> None:
        gone = [i for i, r in self.twin.now.items() if r.class_id == class_id]
        waiting = [s for s, r in self.twin.staged.items() if r.class_id == class_id]
        assert self.memory.remove(class_id=class_id) == len(gone) + len(waiting)
        for i in gone:
            del self.twin.now[i]
        for s in waiting:
            del self.twin.staged[s]

    @precondition(lambda self: self.twin.next_id)
    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        ids = data.draw(st.sets(st.integers(0, self.twin.next_id - 1), min_size=1, max_size=4))
        self.memory.erase(ids)
        for rows in (self.twin.now, *self.twin.versions.values()):
            for i in ids:
                rows.pop(i, None)

    @precondition(lambda self: self.twin.now)
    @rule(data=st.data(), weight=st.sampled_from([0.0, 0.25, 2.0]), class_id=st.integers(0, 3))
    def change(self, data: st.DataObject, weight: float, class_id: int) -> None:
        ids = data.draw(st.sets(st.sampled_from(sorted(self.twin.now)), min_size=1, max_size=3))
        self.memory.reweight(ids, weight)
        self.memory.relabel(ids, class_id)
        for i in ids:
            self.twin.now[i].weight, self.twin.now[i].class_id = weight, class_id

    @rule(steps=st.integers(0, 3))
    def rollback(self, steps: int) -> None:
        back = self.task - steps
        self.memory.rollback(back)
        self.twin.versions = {t: v for t, v in self.twin.versions.items() if t <= back}
        last = max(self.twin.versions, default=None)
        self.twin.now = {} if last is None else copy.deepcopy(self.twin.versions[last])
        self.twin.staged = {}
        self.task = max(last or 0, min(self.task, back + 1), 0)

    @rule(history=st.booleans())
    def compact(self, history: bool) -> None:
        self.memory.compact(history)
        if not history and self.twin.versions:
            self.twin.versions = {max(self.twin.versions): copy.deepcopy(self.twin.now)}

    @precondition(lambda self: self.twin.versions)
    @rule(data=st.data())
    def diff(self, data: st.DataObject) -> None:
        a, b = (data.draw(st.sampled_from([*self.twin.versions])) for _ in range(2))
        before, after = self.twin.versions[a], self.twin.versions[b]
        found = self.memory.diff(a, b)
        both = sorted(before.keys() & after.keys())
        assert found.added.tolist() == sorted(after.keys() - before.keys())
        assert found.retired.tolist() == sorted(before.keys() - after.keys())
        assert found.relabelled.tolist() == [i for i in both if before[i].class_id != after[i].class_id]
        assert found.reweighted.tolist() == [i for i in both if before[i].weight != after[i].weight]

    @rule(write=st.booleans())
    def reopen(self, write: bool) -> None:
        self.memory.close()
        self.twin.staged = {}
        self.memory = Memory.open(self.folder / "m", fingerprint="f", write=True)
        if not write:
            assert len(Memory.open(self.folder / "m")) == len(self.twin.now)

    @rule(
        query=st.integers(0, 11),
        k=st.integers(1, 12),
        classes=st.none() | st.sets(st.integers(0, 3)),
        data=st.data(),
    )
    def search(self, query: int, k: int, classes: set[int] | None, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from([None, *self.twin.versions]))
        rows = self.twin.now if at is None else self.twin.versions[at]
        want = self.twin.nearest(rows, POOL[query], k, classes)
        if not want:
            with pytest.raises(EmptyMemoryError):
                self.memory.search(POOL[query : query + 1], k, classes=classes, at=at)
            return
        found = self.memory.search(POOL[query : query + 1], k, classes=classes, at=at)
        assert found.id[0].tolist() == [r.id for r in want]
        assert found.class_id[0].tolist() == [r.class_id for r in want]
        assert found.weight[0].tolist() == [r.weight for r in want]
        assert found.task[0].tolist() == [r.task for r in want]

    @invariant()
    def counts(self) -> None:
        assert self.memory.ids().tolist() == sorted(self.twin.now)
        assert {v.task: v.rows for v in self.memory.versions()} == {t: len(v) for t, v in self.twin.versions.items()}

    @invariant()
    def whole(self) -> None:
        assert self.memory.verify()["orphans"] == []


def test_random_histories() -> None:
    config = settings(
        max_examples=60,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=config)
