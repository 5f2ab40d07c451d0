"""The store: commits, versions, retiring, erasing, reweighting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kc.errors import EmptyMemoryError, FingerprintError, RunError, UnknownNameError
from kc.memory.disk import Memory
from kc.types import Rows


def reopen(memory: Memory) -> Memory:
    return Memory.open(memory.path)


def test_staged_rows_are_seen_after_commit_only(memory: Memory, rows: Callable[..., Rows]) -> None:
    assert memory.add(rows(5), 0) == 5
    assert len(memory) == 0
    with pytest.raises(EmptyMemoryError):
        memory.search(rows(1).keys, 1)
    assert memory.commit(0) == 5
    assert len(memory) == 5
    assert len(reopen(memory)) == 5


def test_close_drops_what_is_staged(memory: Memory, rows: Callable[..., Rows]) -> None:
    memory.add(rows(5), 0)
    memory.close()
    with Memory.open(memory.path, write=True) as again:
        assert again.commit(0) == 0
        assert again.stats()["rows_total"] == 0
    with pytest.raises(RunError, match="write=True"):
        memory.add(rows(5), 0)


def test_a_row_is_stored_once(memory: Memory, rows: Callable[..., Rows]) -> None:
    batch = rows(4)
    assert memory.add(batch, 0) == 4
    assert memory.add(batch, 0) == 0  # staged: the padding of a distributed sampler
    assert memory.commit(0) == 4
    assert memory.add(batch, 0) == 0  # stored: a task replayed
    assert memory.commit(0) == 0
    assert memory.add(replace(batch, segment=batch.segment + 1), 0) == 4  # another region of the same samples
    memory.close()
    with Memory.open(memory.path, write=True) as again:
        assert again.add(batch, 0) == 0  # keys are known after reopening
        twice = Rows(batch.keys[[0, 0]], batch.class_id[[0, 0]], ("x", "x"), np.zeros(2, np.int64))
        assert again.add(twice, 0) == 1


def test_repeating_a_commit_changes_nothing(three: Memory) -> None:
    before = three.versions(), (three.path / "MANIFEST").read_text()
    assert [three.commit(t) for t in range(3)] == [0, 0, 0]
    assert (three.versions(), (three.path / "MANIFEST").read_text()) == before
    with pytest.raises(UnknownNameError, match="versions: 0, 1, 2"):
        three.snapshot(7)


def test_rows_of_an_earlier_task_are_refused(three: Memory, rows: Callable[..., Rows]) -> None:
    three.add(rows(1, prefix="late"), 1)
    with pytest.raises(ValueError, match=r"rollback\(0\)"):
        three.commit(1)


def test_versions_replay(three: Memory, rows: Callable[..., Rows]) -> None:
    keys = rows(10, seed=0).keys  # those of task 0
    assert [len(three.search(keys, 99, at=t).id[0]) for t in range(3)] == [10, 20, 30]
    before = three.search(keys, 30, at=2)
    three.relabel([0, 1], [5, 6])
    three.reweight([2], [0.5])
    three.remove([3])
    after = three.search(keys, 30, at=2)
    for name in ("id", "score", "class_id", "weight", "task"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
    now = three.search(keys[:3], 1)
    assert now.class_id[:, 0].tolist() == [5, 6, 0]
    assert now.weight[:, 0].tolist() == [1, 1, 0.5]
    assert 3 not in three.search(keys, 99).id
    assert three.commit(2) == 0  # names the present state
    assert three.snapshot(2).rows == 29
    assert 3 not in three.search(keys, 99, at=2).id
    assert 3 in three.search(keys, 99, at=1).id


def test_retire_by_each_criterion(three: Memory) -> None:
    assert three.remove(class_id=0, source="b") == 0  # every criterion must be met
    assert three.remove(sample_id=["t0-1", "t0-2", "nobody"]) == 2
    assert three.remove(task=0) == 8
    assert three.remove(source="b") == 10
    assert three.remove([20, 21]) == 2
    assert three.remove([20, 21]) == 0
    assert three.remove(class_id=[2]) == 8
    assert len(three) == 0
    assert three.stats()["rows_total"] == 30
    with pytest.raises(ValueError, match="say which rows"):
        three.remove()
    with pytest.raises(ValueError, match="never given out"):
        three.remove([30])


def test_staged_rows_are_forgotten_too(memory: Memory, rows: Callable[..., Rows]) -> None:
    memory.add(rows(3, 0, "x"), 0)
    memory.add(rows(3, 1, "y", seed=1), 0)
    assert memory.remove(class_id=1) == 3
    assert memory.erase(sample_id="x0") == 1
    assert memory.commit(0) == 2


def test_a_retired_row_may_come_back_under_a_new_id(three: Memory, rows: Callable[..., Rows]) -> None:
    three.remove([29])
    assert three.add(rows(10, 2, prefix="t2-", seed=2, source="c"), 2) == 1
    three.commit(2)
    assert three.ids(sample_id="t2-9").tolist() == [30]


def test_ids_are_never_used_again(three: Memory, rows: Callable[..., Rows]) -> None:
    three.rollback(1)
    three.add(rows(2, 2, prefix="new"), 2)
    three.commit(2)
    assert three.ids(task=2).tolist() == [30, 31]


def test_rollback_forgets_what_came_after(three: Memory, rows: Callable[..., Rows]) -> None:
    three.remove(class_id=0)
    three.reweight([15], [3.0])
    three.add(rows(4, prefix="staged"), 2)
    three.rollback(1)
    assert [v.task for v in three.versions()] == [0, 1]
    assert len(three) == 20
    assert three.rows_of([15]).weight[0] == 1
    assert three.stats()["rows_total"] == 20
    assert three.verify()["orphans"] == []
    assert three.add(rows(10, 2, prefix="t2-", seed=2), 2) == 10
    assert three.commit(2) == 10
    three.rollback(-1)
    assert len(three) == 0
    assert three.versions() == ()
    three.rollback(-1)
    assert len(reopen(three)) == 0


def test_rollback_to_a_task_without_version_takes_the_one_before(three: Memory) -> None:
    three.rollback(9)
    assert len(three) == 30
    three.rollback(0)
    three.rollback(5)
    assert len(three) == 10


def test_reweight_and_relabel(three: Memory) -> None:
    three.reweight(range(10), 2.0)
    three.reweight([0, 1], [0.0, 0.5])
    three.relabel([1], [9])
    info = three.rows_of([1, 0, 25])
    assert info.weight.tolist() == [0.5, 0.0, 1.0]
    assert info.class_id.tolist() == [9, 0, 2]
    assert 0 not in three.search(np.eye(8), 99).id  # weight 0 hides
    assert len(three) == 30
    three.remove([1])
    for wrong in ([1], [99], [2, 2]):
        with pytest.raises(ValueError, match=r"retired|stores no row|twice"):
            three.reweight(wrong, 1.0)
    for value in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            three.reweight([2], [value])
    with pytest.raises(ValueError, match="at least 0"):
        three.relabel([2], [-1])


def test_attribution(three: Memory, rows: Callable[..., Rows]) -> None:
    three.remove([12])
    info = reopen(three).rows_of([25, 12, 0])
    assert info.sample_id == ("t2-5", "t1-2", "t0-0")
    assert info.source == ("c", "b", "a")
    assert info.task.tolist() == [2, 1, 0]
    assert info.segment.tolist() == [0, 0, 0]
    assert info.visible.tolist() == [True, False, True]
    assert np.array_equal(three.keys([25, 0]), np.stack([rows(10, seed=2).keys[5], rows(10, seed=0).keys[0]]))


def test_erase_leaves_no_byte(three: Memory, rows: Callable[..., Rows]) -> None:
    gone = rows(10, 1, seed=1).keys
    three.relabel([10, 0], [7, 8])
    three.remove([12, 3])
    (three.path / "cache" / "x").mkdir(parents=True)
    (three.path / "cache" / "x" / "ivf.faiss").write_bytes(gone.tobytes())
    assert three.erase(source="b") == 10
    data = {p: p.read_bytes() for p in three.path.rglob("*") if p.is_file()}
    for vector in gone:
        assert not [p for p, b in data.items() if vector.tobytes() in b]
    assert not [p for p, b in data.items() if b"t1-" in b]
    kept = rows(10, 0, seed=0).keys
    assert any(kept[0].tobytes() in b for b in data.values())
    assert [v.rows for v in three.versions()] == [10, 10, 20]
    assert three.verify() | {"bytes": 0} == {"files": 2 * 11 + 1, "bytes": 0, "rows": 20, "orphans": []}
    assert three.rows_of([0, 3]).class_id.tolist() == [8, 0]
    assert not three.rows_of([3]).visible[0]
    assert three.add(rows(10, 1, prefix="t1-", seed=1), 2) == 10  # may be learned again


def test_search_after_erase_equals_a_memory_that_never_knew(tmp_path: Path, rows: Callable[..., Rows]) -> None:
    a, b, c = (rows(40, i, prefix=f"p{i}-", seed=i) for i in range(3))
    found = []
    for batches, erase in (((a, b, c), True), ((a, c), False)):
        with Memory.create(tmp_path / str(erase), dim=8, fingerprint="f") as m:
            for batch in batches:
                m.add(batch, 0)
            m.commit(0)
            if erase:
                assert m.erase(class_id=1) == 40
            found.append(m.search(rows(20, seed=9).keys, 30, at=0))
    for name in ("score", "class_id", "weight", "task"):
        assert np.array_equal(getattr(found[0], name), getattr(found[1], name))


def test_erase_by_id_of_a_part_of_a_segment(three: Memory) -> None:
    assert three.erase([0, 5, 29]) == 3
    assert three.ids(task=[0, 2]).tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 20, 21, 22, 23, 24, 25, 26, 27, 28]
    assert reopen(three).verify()["rows"] == 27
    assert three.erase([0]) == 0


def test_fingerprints_are_compared(three: Memory, rows: Callable[..., Rows]) -> None:
    for wrong in (
        lambda: Memory.open(three.path, fingerprint="enc:2"),
        lambda: three.add(rows(1), 2, fingerprint="enc:2"),
        lambda: three.search(rows(1).keys, 1, fingerprint="enc:2"),
    ):
        with pytest.raises(FingerprintError, match=r"enc:1.*enc:2"):
            wrong()


def test_rows_that_cannot_be_stored_are_refused(memory: Memory, rows: Callable[..., Rows]) -> None:
    good = rows(3)
    bad = {
        "unit vectors": replace(good, keys=good.keys * 2),
        "has length nan": replace(good, keys=np.full_like(good.keys, np.nan)),
        "keys must be": replace(good, keys=good.keys[:, :4]),
        "one entry": replace(good, sample_id=("a",)),
        "at least 0": replace(good, class_id=good.class_id - 1),
        "weights must be": replace(good, weight=np.array([1, -1, 1], np.float32)),
    }
    for message, batch in bad.items():
        with pytest.raises(ValueError, match=message):
            memory.add(batch, 0)
    with pytest.raises(ValueError, match="task"):
        memory.add(good, -1)
    assert memory.commit(0) == 0


def test_keys_are_stored_at_unit_length(memory: Memory, rows: Callable[..., Rows]) -> None:
    """Keys that went through half precision are mended; unit vectors keep every bit."""
    good, rough = rows(300), rows(300, prefix="r")
    memory.add(good, 0)
    memory.add(replace(rough, keys=rough.keys.astype(np.float16).astype(np.float32)), 0)
    memory.commit(0)
    assert np.array_equal(memory.keys(range(300)), good.keys)
    norm = np.linalg.norm(memory.keys(range(300, 600)).astype(np.float64), axis=1)
    assert np.abs(norm - 1).max() < 2.0**-22


def test_open_says_what_is_wrong(tmp_path: Path, three: Memory) -> None:
    with pytest.raises(RunError, match="no memory in"):
        Memory.open(tmp_path / "nowhere")
    with pytest.raises(RunError, match="already holds"):
        Memory.create(three.path, dim=8, fingerprint="f")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(RunError, match="thesis"):
        Memory.create(tmp_path / "full", dim=8, fingerprint="f")
    three.close()
    with pytest.raises(ValueError, match="8 values, asked for 9"):
        Memory.open_or_create(three.path, dim=9, fingerprint="enc:1")
    with Memory.open_or_create(three.path, dim=8, fingerprint="enc:1") as again:
        assert len(again) == 30


def test_segments_are_cut(memory: Memory, rows: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kc.memory.store.staging.MAX_ROWS", 7)
    for i in range(4):
        memory.add(rows(5, i, prefix=f"{i}-", seed=i), 0)
    memory.commit(0)
    assert [s.rows for s in memory._manifest.segments] == [7, 7, 6]
    again = reopen(memory)
    info = again.rows_of(range(20))
    assert info.sample_id == tuple(f"{i}-{j}" for i in range(4) for j in range(5))
    assert np.array_equal(again.keys(range(20)), np.concatenate([rows(5, seed=i).keys for i in range(4)]))


def test_names_of_any_alphabet(memory: Memory, rows: Callable[..., Rows]) -> None:
    names = ("a\nb", "ü\u2028x", '"')
    memory.add(replace(rows(3), sample_id=names, source="日本"), 0)
    memory.commit(0)
    info = reopen(memory).rows_of([0, 1, 2])
    assert info.sample_id == names
    assert info.source == ("日本",) * 3


def test_stats(three: Memory) -> None:
    three.remove([0])
    stats = three.stats()
    on_disk = sum(p.stat().st_size for p in (three.path / "segments").rglob("*") if p.is_file())
    assert stats.pop("reason")
    assert stats == {
        "rows": 29,
        "rows_total": 30,
        "bytes": on_disk,
        "dim": 8,
        "fingerprint": "enc:1",
        "classes": 3,
        "versions": [0, 1, 2],
        "plan": "exact",
        "index": None,
    }
