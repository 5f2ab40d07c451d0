"""Files that survive a crash: hashed writes, fsync, replacement by rename, and errors that say what to free."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from kc.errors import CorruptMemoryError, RunError

FileRef = tuple[int, str]
"""Size in bytes and sha256 of a file, as the manifest records them."""

_USER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)


class _Hashed:
    """A binary file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        self._sha.update(data)
        n = self._file.write(data)
        self.size += n
        return n

    @property
    def ref(self) -> FileRef:
        return self.size, self._sha.hexdigest()


def write_array(path: Path, array: npt.NDArray[Any]) -> FileRef:
    """Write `array` as .npy and fsync it. The file must be invisible to readers until a manifest names it."""
    with path.open("wb") as file:
        hashed = _Hashed(file)
        np.lib.format.write_array(hashed, np.ascontiguousarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return hashed.ref


def write_bytes(path: Path, data: bytes) -> FileRef:
    """Write `data` and fsync it."""
    with path.open("wb") as file:
        hashed = _Hashed(file)
        hashed.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashed.ref


def replace_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what is written there is at `path` in one step when the block ends well.

    fsync, rename, fsync of the folder.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """fsync the folder itself: without it a rename or a new name may be lost at power failure."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_file(path: Path, ref: FileRef) -> None:
    """Raise CorruptMemoryError naming `path` unless size and sha256 are those of `ref`."""
    try:
        size = path.stat().st_size
        if size != ref[0]:
            raise CorruptMemoryError(f"{path}: {size} bytes, the manifest says {ref[0]}; restore it from a copy")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise CorruptMemoryError(f"{path}: named by the manifest but missing; restore it from a copy") from None
    if digest != ref[1]:
        raise CorruptMemoryError(f"{path}: its sha256 is not the manifest's; restore it from a copy")


SEALED = ".sealed.npy"
"""Ending of a derived array whose name holds its own sha256: nothing else needs to vouch for it."""


def write_sealed(folder: Path, name: str, array: npt.NDArray[Any]) -> None:
    """Keep a derived array as `name` in `folder`, in one step. Not fsynced: what a crash breaks is computed again."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{name}.tmp"
    with temporary.open("wb") as file:
        hashed = _Hashed(file)
        np.lib.format.write_array(hashed, np.ascontiguousarray(array), allow_pickle=False)
    os.replace(temporary, folder / f"{name}.{hashed.ref[1]}{SEALED}")


def read_sealed(folder: Path, name: str) -> npt.NDArray[Any] | None:
    """The array kept as `name`, None if there is none; a file that is damaged is removed."""
    for path in sorted(folder.glob(f"{name}.*{SEALED}")):
        try:
            check_sealed(path)
        except CorruptMemoryError:
            path.unlink()
            continue
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        return array
    return None


def check_sealed(path: Path) -> None:
    """Raise CorruptMemoryError naming `path` unless its bytes are those that its name tells."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != path.name.removesuffix(SEALED).rpartition(".")[2]:
        raise CorruptMemoryError(f"{path}: its sha256 is not that in its name; delete it, it is computed again")


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def folder_bytes(root: Path) -> int:
    """Bytes of all files under `root`."""
    return sum(p.stat().st_size for p in root.rglob("*") if p.is_file())


@contextlib.contextmanager
def translated(root: Path, what: str) -> Iterator[None]:
    """Turn a full disk or a missing permission into a RunError that says what to free."""
    try:
        yield
    except OSError as error:
        if error.errno not in _USER_ERRORS:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(root if root.exists() else root.parent).free
            advice = f"free space on its file system ({free:,} bytes are left) or raise the quota, then repeat"
        else:
            advice = "give this user write permission on that folder, then repeat"
        raise RunError(
            f"cannot {what} the memory {root}: {error.strerror}; {advice}. The version before this stays readable."
        ) from error
