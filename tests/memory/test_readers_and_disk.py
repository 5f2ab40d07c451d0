"""When the disk says no, and what readers see while a writer works."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kc.errors import CorruptMemoryError, RunError
from kc.memory.disk import Memory
from kc.memory.store import files
from kc.memory.store import manifest as manifests
from kc.types import Rows


def reopen(memory: Memory) -> Memory:
    return Memory.open(memory.path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("after", range(0, 14, 3))
def test_a_full_disk_keeps_the_version_before(
    three: Memory, rows: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch, after: int, code: int
) -> None:
    """The n-th fsync of a commit fails: nothing of it is left, and it can be repeated."""
    before = sorted(p for p in three.path.rglob("*") if p.is_file())
    three.add(rows(10, 3, prefix="t3-", seed=3), 3)
    calls = iter(range(1000))

    def fsync(fd: int) -> None:
        if next(calls) == after:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(RunError, match="free space" if code == errno.ENOSPC else "permission"):
        three.commit(3)
    assert sorted(p for p in three.path.rglob("*") if p.is_file()) == before
    assert len(reopen(three)) == 30
    assert len(three) == 30
    assert three.commit(3) == 10
    assert len(reopen(three)) == 40


def test_what_a_change_costs_in_fsyncs(three: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retiring: the new manifest and the folder that names it. A large change: its own file and folder too."""
    synced: list[str] = []

    def named(fd: int) -> str:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        return path.suffix if path.suffix == ".tmp" else path.name

    monkeypatch.setattr(files.os, "fsync", lambda fd: synced.append(named(fd)))
    three.remove(class_id=0)
    assert synced == [".tmp", three.path.name]
    assert not (three.path / "deltas").exists()
    synced.clear()
    monkeypatch.setattr("kc.memory.store.segments.INLINE_CHARS", 30)
    three.remove(class_id=1)
    assert synced == ["000005-tombstones.npy", "deltas", ".tmp", three.path.name]
    assert Memory.open(three.path).ids().tolist() == list(range(20, 30))


def test_an_error_after_the_rename_is_told_and_the_state_is_the_new_one(
    three: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync_folder(folder: Path) -> None:
        if folder == three.path and manifests.load(folder).number == 4:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "sync_folder", sync_folder)
    with pytest.raises(RunError):
        three.remove([0])
    assert len(three) == 29 == len(reopen(three))


def test_a_reader_keeps_its_state_and_says_when_it_is_gone(three: Memory, rows: Callable[..., Rows]) -> None:
    early, lazy = reopen(three), reopen(three)
    keys = rows(5, seed=4).keys
    before = early.search(keys, 30)
    three.remove(task=0)
    assert np.array_equal(early.search(keys, 30).id, before.id)
    assert len(early) == 30
    assert not early.current
    three.erase(task=0)
    for told in (lambda: early.search(keys, 30), lambda: early.keys([11]), lambda: early.rows_of([1]),
                 lambda: lazy.search(keys, 1)):  # fmt: skip
        with pytest.raises(RunError, match="open it again"):
            told()
    assert len(reopen(three)) == 20
    assert reopen(three).current


@pytest.mark.parametrize("how", ["flip", "cut", "replaced"])
def test_bytes_that_change_after_they_were_read_are_noticed(three: Memory, rows: Callable[..., Rows], how: str) -> None:
    reader, keys = reopen(three), rows(5, seed=4).keys
    before = reader.search(keys, 3)
    path = three.path / "segments" / "000001" / "vectors.f32.npy"
    data = path.read_bytes()
    time.sleep(0.02)  # the clock of a file system ticks every few milliseconds
    if how == "flip":
        with path.open("r+b") as file:
            file.seek(200)
            file.write(b"\x01\x02")
    elif how == "cut":
        os.truncate(path, len(data) - 4)
    else:
        path.unlink()
        path.write_bytes(data[:-1] + b"x")
    for _ in range(2):
        with pytest.raises(CorruptMemoryError, match=r"vectors\.f32\.npy"):
            reader.search(keys, 3)
    path.write_bytes(data)
    path.touch()  # another time, the same bytes
    assert np.array_equal(reader.search(keys, 3).id, before.id)


def test_a_copy_in_another_process_reads(three: Memory, rows: Callable[..., Rows], tmp_path: Path) -> None:
    copy = pickle.loads(pickle.dumps(three))
    assert len(copy) == 30
    with pytest.raises(RunError, match="reading"):
        copy.remove([0])


def test_searching_in_a_forked_child(three: Memory) -> None:
    """FAISS in the parent and again in a forked child: the child must not wait for threads it does not have."""
    code = """if True:
        import os, sys, numpy as np
        from kc.memory.disk import Memory
        from kc.errors import RunError
        m = Memory.open(sys.argv[1], write=True)
        q = np.random.default_rng(0).normal(size=(200, 8))
        want = m.search(q, 5)
        pid = os.fork()
        if pid == 0:
            same = np.array_equal(m.search(q, 5).id, want.id)
            try:
                m.remove([0])
            except RunError:
                os._exit(0 if same else 3)
            os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert m.remove([0]) == 1
    """
    three.close()
    subprocess.run([sys.executable, "-c", code, str(three.path)], check=True, timeout=60)
