"""One writer, named; the lock of a dead one is taken over."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kc.errors import MemoryLockedError
from kc.memory.disk import Memory
from kc.memory.store.lock import WriterLock

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


def test_a_file_system_without_locks_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(MemoryLockedError, match="without locks"):
        WriterLock(tmp_path)
