"""One writer: a lock that the kernel releases when its owner ends, and a file that names the owner."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import weakref
from pathlib import Path

from kc.errors import CorruptMemoryError, MemoryLockedError

LOCK_NAME = "LOCK"
_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


class WriterLock:
    """Exclusive right to write in `folder`, held from construction to `release`.

    The truth is the kernel's `flock` of the folder itself, which ends with the process; a file that is locked could be
    deleted and made again, and then two writers would each lock one. The file LOCK holds the owner (pid, host) for the
    error message, and is locked where a file system locks files only. The lock of a dead process on this host is taken
    over. An owner on another host cannot be checked and is believed. Raises MemoryLockedError naming the owner,
    CorruptMemoryError where LOCK is a link or no file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / LOCK_NAME
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._file = -1
        try:
            self._acquire(folder)
        except BaseException:
            self._close()
            raise
        self.pid = os.getpid()
        _held.add(self)

    def _acquire(self, folder: Path) -> None:
        try:
            self._file = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666
            )
            plain = stat.S_ISREG(os.fstat(self._file).st_mode) and os.fstat(self._file).st_nlink == 1
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise
            plain = False
        if not plain:
            raise CorruptMemoryError(f"{self.path}: a link or no file, which is never written to: delete it")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken() from None
        except OSError:  # NFS, for one, locks files only
            os.close(self._fd)
            self._fd = os.dup(self._file)
            self._flock_file()
        owner = self._owner()
        if owner and owner.get("host") != socket.gethostname():
            raise MemoryLockedError(
                f"{folder} already has a writer: {self._owner_text()}, on another host than this one "
                f"({socket.gethostname()}); if that process is gone, delete {self.path}"
            )
        self._write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())

    def _flock_file(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken() from None
        except OSError as error:
            raise MemoryLockedError(
                f"{self.folder} lies on a file system without locks ({error.strerror}), where two writers could lose "
                "rows: keep the memory on another one"
            ) from error

    def _taken(self) -> MemoryLockedError:
        text = f"{self.folder} already has a writer: {self._owner_text()}; wait for it, or open the memory for reading"
        return MemoryLockedError(text)

    def _write(self, data: bytes) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, data, 0)

    def _owner(self) -> dict[str, object]:
        try:
            owner = json.loads(os.pread(self._file, 4096, 0) or b"{}")
        except (ValueError, RecursionError):  # torn by a crash: whoever wrote it is dead, since the flock is ours
            return {}
        return owner if isinstance(owner, dict) else {}

    def _owner_text(self) -> str:
        owner = self._owner()
        return f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'unknown host')}"

    def held(self) -> bool:
        """Whether what is locked is still what others find: neither the folder nor, where that is locked, LOCK was
        moved away or deleted."""
        try:
            own = os.fstat(self._fd)
            return os.path.samestat(own, os.stat(self.folder if stat.S_ISDIR(own.st_mode) else self.path))
        except OSError:
            return False

    def release(self) -> None:
        """Give the lock back (once; a second call does nothing)."""
        if self._fd < 0:
            return
        if os.getpid() == self.pid:
            with contextlib.suppress(OSError):  # a full disk must not keep the lock
                self._write(b"")
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._close()

    def _close(self) -> None:
        for fd in (self._fd, self._file):
            if fd >= 0:
                os.close(fd)
        self._fd = self._file = -1


def _drop_inherited() -> None:
    """In a forked child: close the descriptors of its parent's locks, so that the child does not hold them."""
    for lock in list(_held):
        lock._close()


os.register_at_fork(after_in_child=_drop_inherited)
