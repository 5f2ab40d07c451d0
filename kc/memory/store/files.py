"""Files that survive a crash: hashed writes, fsync, replacement by rename, and errors that say what to free."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from kc.errors import CorruptMemoryError, DataError, RunError
from kc.files import atomic_path
from kc.outside import inside

FileRef = tuple[int, str]
"""Size in bytes and checksum of a file, as the manifest records them."""
BLOCK_BYTES = 2**20
"""Bytes that are hashed and written at once."""
_XXH3 = "xxh3-"
"""Before the digits of a checksum: its algorithm."""

_USER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)


def write_array(path: Path, *parts: npt.NDArray[Any]) -> FileRef:
    """Write arrays that differ in length only, one after the other, as one .npy and fsync it.

    The file must be invisible to readers until a manifest names it.
    """
    return write_pieces(path, _npy(parts))


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview]) -> FileRef:
    """Write `pieces` and fsync them."""
    with path.open("wb") as file:
        ref = _write(file, pieces)
        os.fsync(file.fileno())
    return ref


def _npy(parts: Sequence[npt.NDArray[Any]]) -> Iterator[bytes | memoryview]:
    """The bytes of one .npy that holds `parts`, those of the arrays not copied."""
    header = io.BytesIO()
    fields = np.lib.format.header_data_from_array_1_0(parts[0])
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    np.lib.format.write_array_header_1_0(header, {**fields, "fortran_order": False, "shape": shape})
    yield header.getvalue()
    for part in parts:
        if part.size:  # an empty view cannot be cast
            yield np.ascontiguousarray(part).data.cast("B")


def _write(file: BinaryIO, pieces: Iterable[bytes | memoryview]) -> FileRef:
    """Write and hash `pieces`, block by block, so that the second of the two finds a block in the CPU's cache."""
    digest = xxhash.xxh3_128()
    size = 0
    for piece in pieces:
        for first in range(0, len(piece), BLOCK_BYTES):
            block = piece[first : first + BLOCK_BYTES]
            digest.update(block)
            file.write(block)
        size += len(piece)
    file.flush()
    return size, _XXH3 + digest.hexdigest()


# -- checksums ---------------------------------------------------------------------------------------------------------


def checksum_of(path: Path) -> str:
    """XXH3 of 128 bits of a file, as fast as RAM is read. It detects damage, not a forger, as any checksum does whose
    value lies beside the file."""
    with path.open("rb") as file:
        return _XXH3 + hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def replace_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step that lasts: fsync, rename, fsync of the folder. Raises OSError."""
    with atomic_path(path, failures=()) as temporary:
        temporary.write_bytes(data)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """fsync the folder itself: without it a rename or a new name may be lost at power failure."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_file(path: Path, ref: FileRef) -> None:
    """Raise CorruptMemoryError naming `path` unless size and checksum are those of `ref`."""
    try:
        size = path.stat().st_size
        if size != ref[0]:
            raise CorruptMemoryError(f"{path}: {size} bytes, the manifest says {ref[0]}; restore it from a copy")
        digest = checksum_of(path)
    except FileNotFoundError:
        raise CorruptMemoryError(f"{path}: named by the manifest but missing; restore it from a copy") from None
    if digest != ref[1]:
        raise CorruptMemoryError(f"{path}: its checksum is not the manifest's; restore it from a copy")


SEALED = ".sealed.npy"
"""Ending of a derived array whose name holds its own checksum: nothing else needs to vouch for it."""


def write_sealed(folder: Path, name: str, array: npt.NDArray[Any]) -> None:
    """Keep a derived array as `name` in `folder`, in one step. Not fsynced: what a crash breaks is computed again."""
    data = io.BytesIO()
    _, digest = _write(data, _npy([array]))
    with atomic_path(folder / f"{name}.{digest}{SEALED}", sync=False, failures=()) as temporary:
        temporary.write_bytes(data.getbuffer())


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
    """Raise CorruptMemoryError naming `path` unless its bytes are those that its name says."""
    named = path.name.removesuffix(SEALED).rpartition(".")[2]
    if checksum_of(path) != named:
        raise CorruptMemoryError(f"{path}: its checksum is not that in its name; delete it, it is computed again")


def within(root: Path, relative: str) -> Path:
    """A path in the memory `root`, by a name of its manifest or of the store; CorruptMemoryError where the name or a
    link leads out of it."""
    try:
        return inside(root, relative)
    except DataError as error:
        raise CorruptMemoryError(str(error)) from error


def identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is written, replaced or touched: device, inode, size, both times in ns; () for none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
def explain_os_errors(root: Path, what: str) -> Iterator[None]:
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
