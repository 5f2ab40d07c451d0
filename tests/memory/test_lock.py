"""One writer, named; the lock of a dead one is taken over."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kc.errors import CorruptMemoryError, MemoryLockedError, RunError
from kc.memory.disk import Memory
from kc.memory.store.lock import WriterLock
from kc.types import Rows

HOLD = """if True:
    import os, sys, time
    from kc.memory.disk import Memory
    m = Memory.open(sys.argv[1], write=True)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_told_who_the_first_is(three: Memory) -> None:
    with pytest.raises(MemoryLockedError, match=f"process {os.getpid()} on {socket.gethostname()}"):
        Memory.open(three.path, write=True)
    assert len(Memory.open(three.path)) == 30  # reading needs no lock
    three.close()
    three.close()
    Memory.open(three.path, write=True).close()


def test_a_writer_in_another_process(three: Memory) -> None:
    three.close()
    command = [sys.executable, "-c", HOLD, str(three.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(MemoryLockedError, match=f"process {holder.pid} "):
            Memory.open(three.path, write=True)
        holder.kill()
        holder.wait()
    # Its lock file still names it; the process is dead, so the next writer takes over.
    assert json.loads((three.path / "LOCK").read_text())["pid"] == holder.pid
    with Memory.open(three.path, write=True) as again:
        assert again.remove([0]) == 1


def test_an_owner_on_another_host_is_believed(three: Memory) -> None:
    three.close()
    (three.path / "LOCK").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(MemoryLockedError, match=r"process 1 on elsewhere.*delete .*LOCK"):
        Memory.open(three.path, write=True)
    (three.path / "LOCK").unlink()
    Memory.open(three.path, write=True).close()


def test_a_torn_lock_file_is_a_dead_owner(three: Memory) -> None:
    three.close()
    (three.path / "LOCK").write_text('{"pid": 12')
    Memory.open(three.path, write=True).close()


def test_the_lock_is_given_back_when_opening_fails(three: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    three.close()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr("kc.memory.store.upkeep.sweep", fail)
        with pytest.raises(ZeroDivisionError):
            Memory.open(three.path, write=True)
    Memory.open(three.path, write=True).close()


def test_a_forked_child_does_not_keep_the_lock(three: Memory, tmp_path: Path) -> None:
    code = """if True:
        import os, sys
        from kc.memory.disk import Memory
        m = Memory.open(sys.argv[1], write=True)
        (r, w), (up, ready) = os.pipe(), os.pipe()
        if os.fork() == 0:
            os.write(ready, b"x")
            os.read(r, 1)  # outlives its parent's lock
            os._exit(0)
        os.read(up, 1)
        os.close(m._lock._fd)  # as after SIGKILL: nothing is unlocked by hand
        try:
            Memory.open(sys.argv[1], write=True).close()
        finally:
            os.write(w, b"x")
            os.wait()
    """
    three.close()
    subprocess.run([sys.executable, "-c", code, str(three.path)], check=True, timeout=60)


def files_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system, as NFS, that locks no folders."""
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(fd, operation)

    monkeypatch.setattr("fcntl.flock", flock)


def test_a_deleted_lock_file_lets_no_second_writer_in(three: Memory) -> None:
    (three.path / "LOCK").unlink()
    for _ in range(2):
        with pytest.raises(MemoryLockedError):
            Memory.open(three.path, write=True)
    assert three.remove([0]) == 1
    assert len(Memory.open(three.path)) == 29


@pytest.mark.parametrize("how", ["LOCK deleted", "folder replaced"])
@pytest.mark.parametrize("second", ["commits", "opens", "closes"])
def test_the_loser_of_two_writers_is_told_and_nothing_acknowledged_is_lost(
    three: Memory, rows: Callable[..., Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, second: str
) -> None:
    three.close()
    if how == "LOCK deleted":
        files_only(monkeypatch)
    first = Memory.open(three.path, write=True)
    first.add(rows(5, 3, prefix="lost", seed=5), 3)
    if how == "LOCK deleted":
        (three.path / "LOCK").unlink()
    else:
        three.path.rename(tmp_path / "aside")
        shutil.copytree(tmp_path / "aside", three.path)
    other = Memory.open(three.path, write=True)
    if second == "commits":
        other.add(rows(7, 4, prefix="kept", seed=6), 4)
        assert other.commit(4) == 7
    if second == "closes":
        other.close()
    for change in (lambda: first.commit(3), lambda: first.remove([0]), lambda: first.erase([1])):
        with pytest.raises(RunError, match="open it again"):
            change()
    first.close()
    now = Memory.open(three.path)
    assert len(now) == 30 + 7 * (second == "commits")
    assert now.verify()["rows"] == len(now)
    other.close()
    with Memory.open(three.path, write=True) as again:
        assert again.verify()["orphans"] == []
        assert again.remove([0]) == 1


def test_a_backup_of_hard_links_is_no_other_writer(three: Memory, tmp_path: Path) -> None:
    os.link(three.path / "MANIFEST", tmp_path / "backup")  # changes its ctime
    assert three.remove([0]) == 1


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "folder"])
def test_a_lock_that_is_no_file_of_the_memory_is_not_written(three: Memory, tmp_path: Path, kind: str) -> None:
    three.close()
    lock, mine = three.path / "LOCK", tmp_path / "mine"
    lock.unlink()
    mine.write_text("keep me")
    if kind == "symlink":
        lock.symlink_to(mine)
    elif kind == "hard link":
        os.link(mine, lock)
    elif kind == "fifo":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(CorruptMemoryError, match="LOCK"):
        Memory.open(three.path, write=True)
    assert mine.read_text() == "keep me"


def test_a_file_system_without_locks_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(MemoryLockedError, match="without locks"):
        WriterLock(tmp_path)
