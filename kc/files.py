"""Files: the cache folder, writes that are complete or absent, and file names made of outside names."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import shutil
import stat
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote
from uuid import uuid4

from kc.errors import RunError

LONGEST_NAME = 200
"""Characters of the longest file name that `file_name` gives: common file systems take 255 bytes, endings included."""


def cache_dir() -> Path:
    """The folder of everything derived from data: environment variable KC_CACHE, else `~/.cache/kc`. Not created."""
    given = os.environ.get("KC_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "kc"


@contextmanager
def atomic_path(path: Path, *, sync: bool = True, failures: tuple[type[Exception], ...] = (OSError,)) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to `path` when the block ends well and removed otherwise.

    Args:
        path: The file to write; its folder is created.
        sync: Flush the file to disk before it is renamed. Not needed for what can be computed again.
        failures: What the writer raises where it cannot write; becomes RunError.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        rights = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != rights:  # safetensors gives files to their owner alone
            temporary.chmod(rights)
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except failures as error:
        raise _not_writable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a whole file or leave what was there; see `atomic_path`. Raises RunError."""
    with atomic_path(path, sync=sync) as temporary:
        temporary.write_bytes(data)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV. Text that a spreadsheet would take for a formula (`=1+1`, `@name`) begins with an apostrophe."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def write_checked(path: Path, magic: bytes, body: bytes) -> None:
    """Write `magic`, the CRC-32 of `body` and `body` to `path`, all or nothing. Raises RunError."""
    write_atomic(path, magic + struct.pack("<I", zlib.crc32(body)) + body, sync=False)


def read_checked(path: Path, magic: bytes) -> bytes | None:
    """The body of `write_checked`, or None where there is none or the file is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < 12 or data[:4] != magic or zlib.crc32(memoryview(data)[8:]) != int.from_bytes(data[4:8], "little"):
        return None
    return data[8:]


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `path` when the block ends well and removed otherwise.

    If another process made `path` meanwhile, its folder stays and this one is removed: both hold the same content.
    Raises RunError where the folder cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid4().hex}")
        temporary.mkdir()  # with the rights that the umask gives, as `tempfile` does not
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
    except OSError as error:
        raise _not_writable(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed at the end; its name says which process left it behind where that was killed."""
    with tempfile.TemporaryDirectory(prefix=f"kc-{os.getpid()}-") as folder:
        yield Path(folder)


def file_name(name: str) -> str:
    """A file name that stands for `name` alone, whatever its characters: percent-encoding, `name_of` reads it back.

    A dot is encoded where it comes first, since `..` is a folder. What would be longer than LONGEST_NAME is cut and
    ends in a hash, which cannot be read back.
    """
    encoded = quote(name, safe="@+=,()", errors="surrogateescape")
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if len(encoded) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]
        encoded = f"{encoded[: LONGEST_NAME - 33]}-{digest}"
    return encoded or "%"


def name_of(file: str) -> str:
    """The name that `file_name` made `file` of, unless it was cut."""
    return "" if file == "%" else unquote(file, errors="surrogateescape")


def shortened(name: str) -> str:
    """`name`, its first 120 bytes in UTF-8: part of a file name that is unique by something else."""
    return name.encode(errors="surrogateescape")[:120].decode(errors="ignore")


def hashed_path(folder: Path, key: str, suffix: str) -> Path:
    """Where a cache keeps the entry of `key`: `folder/XX/HASH suffix`, so that no folder grows too large."""
    digest = hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()
    return folder / digest[:2] / f"{digest}{suffix}"


def _not_writable(path: Path, error: Exception) -> RunError:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return RunError(f"cannot write {path}: {reason}. Free space there or choose another folder (KC_CACHE for caches)")
