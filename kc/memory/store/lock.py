"""One writer: a lock file that names its owner and that the kernel releases when the owner ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import weakref
from pathlib import Path

from kc.errors import MemoryLockedError

LOCK_NAME = "LOCK"
_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


class WriterLock:
    """Exclusive right to write in `folder`, held from construction to `release`.

    The file holds the owner (pid, host) for the error message; the truth is the kernel's `flock`, which ends with the
    process, so the lock of a dead process on this host is taken over. An owner on another host cannot be checked and
    is believed. Raises MemoryLockedError naming the owner.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        # The file stays for good: removing it would let two writers lock two different inodes.
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._acquire(folder)
        except BaseException:
            os.close(self._fd)
            self._fd = -1
            raise
        self.pid = os.getpid()
        _held.add(self)

    def _acquire(self, folder: Path) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MemoryLockedError(
                f"{folder} already has a writer: {self._owner_text()}; wait for it, or open the memory for reading"
            ) from None
        except OSError as error:
            raise MemoryLockedError(
                f"{folder} lies on a file system without locks ({error.strerror}), where two writers could lose rows: "
                "keep the memory on another one"
            ) from error
        owner = self._owner()
        if owner and owner.get("host") != socket.gethostname():
            raise MemoryLockedError(
                f"{folder} already has a writer: {self._owner_text()}, on another host than this one "
                f"({socket.gethostname()}); if that process is gone, delete {self.path}"
            )
        self._write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())

    def _write(self, data: bytes) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)

    def _owner(self) -> dict[str, object]:
        try:
            owner = json.loads(os.pread(self._fd, 4096, 0) or b"{}")
        except ValueError:  # torn by a crash: whoever wrote it is dead, since the flock is ours
            return {}
        return owner if isinstance(owner, dict) else {}

    def _owner_text(self) -> str:
        owner = self._owner()
        return f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'unknown host')}"

    def release(self) -> None:
        """Give the lock back (once; a second call does nothing)."""
        if self._fd < 0:
            return
        if os.getpid() == self.pid:
            with contextlib.suppress(OSError):  # a full disk must not keep the lock
                self._write(b"")
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)
        self._fd = -1


def _drop_inherited() -> None:
    """In a forked child: close the descriptors of its parent's locks, so that the child does not hold them."""
    for lock in list(_held):
        if lock._fd >= 0:
            os.close(lock._fd)
            lock._fd = -1


os.register_at_fork(after_in_child=_drop_inherited)
