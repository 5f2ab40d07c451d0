"""Where shards lie: a folder, or an address whose blocks are kept in a local cache. Reading and writing by name."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from kc.data.addresses import store_address
from kc.errors import DataError, MissingExtraError
from kc.files import cache_dir, write_atomic
from kc.outside import inside, inside_text

BLOCK = 1 << 20
"""Bytes that one request to an address gets at least, and the unit of the local cache."""
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "http": "aiohttp",
             "https": "aiohttp"}  # fmt: skip


class Store(Protocol):
    """Files by name. `block`: bytes that a read is rounded to, so the cost of a small one; all raise DataError."""

    name: str
    block: int

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        ...

    def read_file(self, name: str) -> bytes:
        """A whole file, as it is now."""
        ...

    def read(self, name: str, offset: int, size: int) -> bytes:
        """A part of a file that never changes; fewer bytes where it ends before."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """A file, complete or not at all."""
        ...

    def remove(self, name: str) -> None:
        """Take a file away; there may be none."""
        ...


def open_store(place: str | Path) -> Store:
    """The store of a folder or an address. Raises DataError for an address of another kind, such as `pipe:`."""
    text = str(place)
    if isinstance(place, Path) or ("://" not in text and not text.lstrip().lower().startswith("pipe:")):
        return FolderStore(Path(place))
    try:
        return AddressStore(store_address(text))
    except ValueError as error:
        raise DataError(str(error)) from error


class FolderStore:
    """A folder on this machine."""

    block = 4096

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)

    def size(self, name: str) -> int | None:
        try:
            found = os.stat(inside(self.folder, name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def read_file(self, name: str) -> bytes:
        path = inside(self.folder, name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot read it ({error.strerror})") from error

    def read(self, name: str, offset: int, size: int) -> bytes:
        try:
            file = os.open(inside_text(self.folder, name), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            try:
                return os.pread(file, size, offset)
            finally:
                os.close(file)
        except OSError as error:
            raise DataError(f"{self.folder / name}: cannot read it ({error.strerror})") from error

    def write(self, name: str, content: bytes) -> None:
        write_atomic(self.folder / name, content)

    def remove(self, name: str) -> None:
        inside(self.folder, name).unlink(missing_ok=True)


class AddressStore:
    """An address that fsspec can read. What was read once is kept in blocks below KC_CACHE/shards."""

    block = BLOCK

    def __init__(self, address: str) -> None:
        self.name = address.rstrip("/")
        self._system: tuple[int, Any, str] | None = None
        self._cache = cache_dir() / "shards" / hashlib.sha256(self.name.encode()).hexdigest()[:16]

    def size(self, name: str) -> int | None:
        with self._errors(name) as (system, top):
            path = f"{top}/{name}"
            return int(system.size(path)) if system.exists(path) else None

    def read_file(self, name: str) -> bytes:
        """A whole file, never from the cache: an index may have been written anew."""
        with self._errors(name) as (system, top):
            return bytes(system.cat_file(f"{top}/{name}"))

    def read(self, name: str, offset: int, size: int) -> bytes:
        """A part of a file; missing blocks next to one another are one request."""
        if size <= 0:
            return b""
        first, last = offset // BLOCK, (offset + size - 1) // BLOCK
        paths = {number: inside(self._cache, f"{name}.{number:07d}") for number in range(first, last + 1)}
        parts = {number: path.read_bytes() for number, path in paths.items() if path.is_file()}
        missing = [number for number in paths if number not in parts]
        while missing:
            run = [missing.pop(0)]
            while missing and missing[0] == run[-1] + 1:
                run.append(missing.pop(0))
            with self._errors(name) as (system, top):
                found = bytes(system.cat_file(f"{top}/{name}", start=run[0] * BLOCK, end=(run[-1] + 1) * BLOCK))
            for i, number in enumerate(run):
                parts[number] = found[i * BLOCK : (i + 1) * BLOCK]
                write_atomic(paths[number], parts[number], sync=False)
        start = offset - first * BLOCK
        return b"".join(parts[number] for number in paths)[start : start + size]

    def write(self, name: str, content: bytes) -> None:
        """A file; stores of objects show it when it is whole. Blocks of an older one are forgotten."""
        with self._errors(name) as (system, top):
            if self.name.startswith(("hdfs", "memory")):
                system.makedirs(os.path.dirname(f"{top}/{name}"), exist_ok=True)
            system.pipe_file(f"{top}/{name}", content)
        self._forget(name)

    def remove(self, name: str) -> None:
        with self._errors(name) as (system, top):
            if system.exists(f"{top}/{name}"):
                system.rm_file(f"{top}/{name}")
        self._forget(name)

    def _forget(self, name: str) -> None:
        for path in inside(self._cache, name).parent.glob(f"{Path(name).name}.*"):
            path.unlink(missing_ok=True)

    @contextmanager
    def _errors(self, name: str) -> Iterator[tuple[Any, str]]:
        """fsspec's file system and the path in it; opened anew in each process, as connections do not survive forks."""
        try:
            if self._system is None or self._system[0] != os.getpid():
                import fsspec

                system, top = fsspec.url_to_fs(self.name, skip_instance_cache=True)
                self._system = os.getpid(), system, top
            yield self._system[1:]
        except ImportError as error:
            package = _PACKAGES.get(self.name.partition(":")[0], str(error))
            raise MissingExtraError(f"{self.name} needs {package}: pip install {package}") from error
        except Exception as error:  # the package of each kind of store has errors of its own
            raise DataError(f"{self.name}/{name}: cannot reach it ({type(error).__name__}: {error})") from error
