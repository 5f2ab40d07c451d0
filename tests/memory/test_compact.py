"""Compaction changes files, never answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kc.errors import FingerprintError, RunError
from kc.memory.disk import Memory
from kc.memory.store import upkeep as compact
from kc.types import Neighbours, Rows


def answers(memory: Memory) -> list[Neighbours]:
    """Everything that can be seen at every version and now."""
    queries = np.random.default_rng(0).normal(size=(7, memory.dim))
    states = [v.task for v in memory.versions()] + [None]
    return [memory.search(queries, 1000, at=at) for at in states]


def same(a: list[Neighbours], b: list[Neighbours]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for name in ("id", "score", "class_id", "weight", "task"):
            assert np.array_equal(getattr(x, name), getattr(y, name))


@pytest.fixture
def worn(three: Memory, rows: Callable[..., Rows]) -> Memory:
    """Three tasks and what wears a memory out: changes within a task, between two, and after the last."""
    three.add(rows(6, 3, prefix="t3-", seed=3), 3)
    three.commit(3)
    three.remove([30, 0])
    three.relabel([31], [8])
    three.relabel([31, 1], [9, 9])
    three.reweight([32, 1], [0.5, 0.25])
    three.commit(3)  # what came since the first commit of task 3 belongs to it
    three.reweight([32], [2.0])
    three.reweight([32, 2], [3.0, 4.0])
    three.relabel([3], [0])  # what it was
    three.remove(class_id=1)
    return three


def test_every_version_answers_as_before(worn: Memory) -> None:
    before = answers(worn)
    assert [(s.rows, s.added) for s in worn._manifest.segments] == [(10, 1), (10, 2), (10, 3), (6, 4)]
    assert worn.compact()
    assert [(s.rows, s.added) for s in worn._manifest.segments] == [(35, 4)]  # row 30 was never in a version
    # Task 3 retired row 0 and changed row 1; now 10..19 are gone and 32 and 2 are heavier.
    assert [(d.kind, d.rows) for d in worn._manifest.deltas] == [
        ("tombstones", 1),
        ("weights", 1),
        ("relabels", 1),
        ("tombstones", 10),
        ("weights", 2),
    ]
    same(answers(worn), before)
    same(answers(Memory.open(worn.path)), before)
    assert worn.verify()["orphans"] == []
    assert len(list((worn.path / "segments").iterdir())) == 1
    with pytest.raises(ValueError, match="no row with id 30"):
        worn.rows_of([30])
    number = worn._manifest.number
    assert not worn.compact()
    assert worn._manifest.number == number


def test_erased_rows_are_in_no_file_of_a_compacted_memory(worn: Memory, rows: Callable[..., Rows]) -> None:
    """Not in the joined segment, not in a delta, not under their names; whether erased before it or after."""
    doomed = [rows(10, seed=t).keys[1:3] for t in range(3)]
    worn.erase([11, 12])
    worn.compact()
    worn.erase([1, 2])
    worn.compact(history=False)
    worn.erase([21, 22])
    data = b"".join(p.read_bytes() for p in worn.path.rglob("*") if p.is_file())
    for vector in np.concatenate(doomed):
        assert vector.tobytes() not in data
    for name in (f"t{t}-{i}" for t in range(3) for i in (1, 2)):
        assert f'"{name}"'.encode() not in data
    assert rows(10, seed=2).keys[3].tobytes() in data
    assert worn.verify()["rows"] == len(worn) == 24 - 4


@pytest.mark.parametrize("first", ["erase", "compact"])
def test_a_compacted_memory_that_forgot_equals_one_that_never_knew(
    tmp_path: Path, rows: Callable[..., Rows], first: str
) -> None:
    """At every version, bit by bit but for the ids, which are not used again."""
    found = []
    for knows in (True, False):
        with Memory.create(tmp_path / str(knows), dim=8, fingerprint="f") as memory:
            for t in range(3):
                memory.add(rows(20, t, prefix=f"t{t}-", seed=t), t)
                if knows:
                    memory.add(rows(20, 9, prefix=f"secret{t}-", seed=10 + t), t)
                memory.commit(t)
                memory.reweight(memory.ids(sample_id=f"t{t}-3"), 0.5)
            if knows:
                memory.remove(sample_id="secret1-4")
                steps = [memory.compact, lambda m=memory: m.erase(class_id=9)]
                for step in steps if first == "compact" else reversed(steps):
                    step()
            found.append(answers(memory))
    for with_secret, without_rows in zip(*found, strict=True):
        for name in ("score", "class_id", "weight", "task"):
            assert np.array_equal(getattr(with_secret, name), getattr(without_rows, name))


@pytest.mark.parametrize("task", [-1, 0, 1, 2, 3])
def test_rollback_after_compaction(worn: Memory, rows: Callable[..., Rows], task: int) -> None:
    """Versions that share a segment are still told apart."""
    before = answers(worn)
    worn.compact()
    worn.rollback(task)
    assert [v.task for v in worn.versions()] == list(range(task + 1))
    if task >= 0:
        same(answers(worn), [*before[: task + 1], before[task]])
    else:
        assert len(worn) == 0
    assert worn.verify()["orphans"] == []
    assert (
        worn.add(rows(6, 3, prefix="t3-", seed=3), 3) == {-1: 6, 0: 6, 1: 6, 2: 6, 3: 2}[task]
    )  # row 31 had another class


def test_without_history_only_the_present_is_left(worn: Memory) -> None:
    now = answers(worn)[-1]
    assert worn.compact(history=False)
    same(answers(worn), [now, now])
    assert [(v.task, v.rows) for v in worn.versions()] == [(3, 24)]
    assert worn.stats()["rows_total"] == 24
    assert worn._manifest.deltas == ()
    assert not worn.compact(history=False)
    assert not worn.compact()
    worn.rollback(3)
    same(answers(worn), [now, now])


def test_staged_rows_wait_through_it(three: Memory, rows: Callable[..., Rows]) -> None:
    three.add(rows(4, 3, prefix="t3-", seed=3), 3)
    assert three.compact()
    assert three.add(rows(4, 3, prefix="t3-", seed=3), 3) == 0
    assert three.commit(3) == 4
    assert three.ids(task=3).tolist() == [30, 31, 32, 33]


def test_segments_fill_up_to_the_limit(
    memory: Memory, rows: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "MAX_ROWS", 10)
    for t, n in enumerate((4, 4, 4, 9, 10, 1, 2)):
        memory.add(rows(n, t, prefix=f"t{t}-", seed=t), t)
        memory.commit(t)
    names = [s.name for s in memory._manifest.segments]
    before = answers(memory)
    assert memory.compact()
    assert [s.rows for s in memory._manifest.segments] == [8, 4, 9, 10, 3]
    kept = [s.name for s in memory._manifest.segments]
    assert kept[1:4] == [names[2], names[3], names[4]]  # full or alone: not written again
    same(answers(memory), before)
    assert not memory.compact()


def test_an_empty_memory(memory: Memory, rows: Callable[..., Rows]) -> None:
    assert not memory.compact()
    assert not memory.compact(history=False)
    memory.add(rows(3), 0)
    memory.commit(0)
    memory.remove(class_id=0)
    assert memory.compact(history=False)
    assert memory._manifest.segments == ()
    assert memory.add(rows(3), 1) == 3
    assert memory.commit(1) == 3
    assert memory.ids().tolist() == [3, 4, 5]


def test_a_reader_is_told_to_open_again(three: Memory) -> None:
    late, early = Memory.open(three.path), Memory.open(three.path)
    before = answers(early)
    three.compact()
    for reader in (early, late):
        with pytest.raises(RunError, match=r"compact.*open it again"):
            answers(reader)
    same(answers(Memory.open(three.path)), before)


def test_merge(three: Memory, rows: Callable[..., Rows], tmp_path: Path) -> None:
    three.remove([5])
    three.relabel([6], [7])
    three.reweight([7], [0.5])
    with Memory.create(tmp_path / "other", dim=8, fingerprint="enc:1") as other:
        other.add(replace(rows(2, 4, prefix="t0-", seed=9), source="z"), 1)  # regions of two rows of `three`
        other.add(replace(rows(3, 5, prefix="o", seed=8), source="z"), 2)
        other.commit(2)
        assert other.merge(three) == 29
        assert other.merge(three) == 0
        assert len(other) == 5
        assert other.commit(2) == 29
        assert other.merge(three) == 0
        want, got = three.rows_of(three.ids()), other.rows_of(other.ids())
        for name in ("class_id", "weight", "task", "sample_id", "segment", "source"):
            assert list(getattr(got, name)[3:]) == list(getattr(want, name))
        assert np.array_equal(other.keys(other.ids()[3:]), three.keys(three.ids()))
        assert got.source[:3] == ("z",) * 3
        assert got.class_id[:3].tolist() == [5, 5, 5]


def test_memories_of_another_encoder_do_not_mix(three: Memory, tmp_path: Path) -> None:
    for name, dim, fingerprint, error, message in (
        ("a", 8, "enc:2", FingerprintError, r"enc:1.*enc:2"),
        ("b", 4, "enc:1", ValueError, r"8 values.*of 4"),
    ):
        other = Memory.create(tmp_path / name, dim=dim, fingerprint=fingerprint)
        with other, pytest.raises(error, match=message):
            three.merge(other)


def test_diff(worn: Memory) -> None:
    assert not worn.diff(2, 2)
    step = worn.diff(2, 3)
    assert (step.added.tolist(), step.retired.tolist()) == ([31, 32, 33, 34, 35], [0])
    assert (step.relabelled.tolist(), step.class_before.tolist(), step.class_after.tolist()) == ([1], [0], [9])
    assert (step.reweighted.tolist(), step.weight_before.tolist(), step.weight_after.tolist()) == ([1], [1], [0.25])
    now = worn.diff(3)
    assert (now.added.tolist(), now.retired.tolist()) == ([], list(range(10, 20)))
    assert (now.reweighted.tolist(), now.weight_after.tolist()) == ([2, 32], [4, 3])
    assert now.relabelled.tolist() == []
    back = worn.diff(3, 2)
    assert (back.added.tolist(), back.retired.tolist()) == ([0], [31, 32, 33, 34, 35])
    assert (back.class_before.tolist(), back.class_after.tolist()) == ([9], [0])
