"""Unpack tar, zip and gzip files that are not trusted: no path leaves the folder, no links, no bomb."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar, NoReturn, Self, cast

from kc.errors import DataError, KcError
from kc.files import atomic_path

_XZ = b"\xfd7zXZ\0"
MOST_TIMES, MOST_MEMBERS, _FREE = 10, 5_000_000, 1 << 20
"""An archive may unpack to ten times its size (and 1 MiB): images hardly shrink, annotations in JSON five times."""

_BLOCK = 1 << 20
_MOST_HEADER = 1 << 20
"""Bytes of the largest extended header: it is read whole, and holds a name."""
_MOST_XZ = 256 << 20
"""Bytes that decompressing xz may take: `xz -9` needs 65 MiB, and its header may ask for 4 GiB."""
_HEADERS = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


def unpack(archive: Path, folder: Path, progress: Callable[[int], None] | None = None) -> int:
    """Unpack `archive` (tar, tar.gz, tar.bz2, tar.xz or zip) below `folder`; returns how many files it held.

    NAME.gz that is no NAME.tar.gz holds one file, NAME.

    Files appear complete under their name or not at all; those of the same name are replaced. Modes and owners of the
    archive are not taken over. `progress` is called with the bytes written so far.

    Raises:
        DataError: not an archive, a damaged one, one with links, devices or paths that leave the folder, or one that
            unpacks to more than ten times its size; names the member. Members before it stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = folder.resolve()
    allowed = MOST_TIMES * archive.stat().st_size + _FREE
    written = n_files = 0
    try:
        with _members(archive) as members:
            for count, (name, content) in enumerate(members, start=1):
                if count > MOST_MEMBERS:
                    raise DataError(f"{archive}: more than {MOST_MEMBERS:,} members")
                target = _target(archive, root, name)
                if content is None:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                n_files += 1
                with content, atomic_path(target, sync=False, failures=()) as temporary, temporary.open("wb") as file:
                    while block := content.read(_BLOCK):
                        written += len(block)
                        if written > allowed:
                            raise DataError(
                                f"{archive}: {name!r} unpacks beyond {allowed:,} bytes, {MOST_TIMES} times its "
                                "archive: refused"
                            )
                        file.write(block)
                if progress is not None:
                    progress(written)
    except KcError:
        raise
    except Exception as error:  # damaged archives fail in as many ways as there are formats
        raise DataError(f"{archive}: cannot unpack it ({type(error).__name__}: {error})") from error
    return n_files


Member = tuple[str, IO[bytes] | None]
"""Name, and content: None for a folder."""


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened_zip:
            yield _of_zip(archive, opened_zip)
    elif archive.suffix == ".gz" and not archive.stem.endswith(".tar"):
        with gzip.open(archive) as file:
            yield iter([(archive.stem, cast(IO[bytes], file))])
    elif archive.open("rb").read(len(_XZ)) == _XZ:
        with archive.open("rb") as raw, _Tar.open(fileobj=io.BufferedReader(_Xz(raw), _BLOCK), mode="r|") as opened:
            yield _of_tar(archive, opened)
    else:
        with _Tar.open(archive, mode="r:*") as opened:
            yield _of_tar(archive, opened)


def _of_zip(archive: Path, opened: zipfile.ZipFile) -> Iterator[Member]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{archive}: {info.filename!r} is a link or a device: refused")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
            raise DataError(f"{archive}: {info.filename!r} is compressed in a way that is not read: refused")
        yield info.filename, None if info.is_dir() else opened.open(info)


class _Xz(io.RawIOBase):
    """What the streams of an xz file hold, decompressed within _MOST_XZ. Raises lzma.LZMAError."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._stream = file, lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_XZ)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._stream.eof:  # another stream may follow, behind zeros
                rest = self._stream.unused_data.lstrip(b"\0")
                while not rest and (block := self._file.read(_BLOCK)):
                    rest = block.lstrip(b"\0")
                if not rest:
                    return 0
                self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_XZ)
            else:
                rest = self._file.read(_BLOCK) if self._stream.needs_input else b""
                if not rest and self._stream.needs_input:
                    raise EOFError("the file is cut short")
            if found := self._stream.decompress(rest, len(buffer)):
                buffer[: len(found)] = found
                return len(found)


class _Bounded(tarfile.TarInfo):
    """A header whose size is no number below 0, and whose extended headers are not read whatever their size."""

    def _proc_gnusparse_10(self, *_: object) -> NoReturn:
        raise DataError("a list of holes: refused")  # it may be as long as the archive

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise DataError("a list of holes: refused")
        if info.size < 0 or (info.type in _HEADERS and info.size > _MOST_HEADER):
            raise DataError(f"a tar header of {info.size:,} bytes: refused")
        return info


class _Tar(tarfile.TarFile):
    """Reads no xz, which has no bound there."""

    tarinfo = _Bounded
    OPEN_METH: ClassVar = {name: tarfile.TarFile.OPEN_METH[name] for name in ("tar", "gz", "bz2")}


def _of_tar(archive: Path, opened: tarfile.TarFile) -> Iterator[Member]:
    for info in opened:
        if info.size < 0:  # said by an extended header
            raise DataError(f"{archive}: {info.name!r} has {info.size:,} bytes: refused")
        if not (info.isfile() or info.isdir()):
            raise DataError(f"{archive}: {info.name!r} is a link or a device: refused")
        yield info.name, None if info.isdir() else opened.extractfile(info)
        # Else every header of a large archive stays in memory; the type stubs do not know the attribute.
        opened.members = []  # type: ignore[attr-defined]
    if opened.fileobj is not None and opened.fileobj.read(_BLOCK):  # to the end, where the checksum of gzip stands
        opened.fileobj.read(_BLOCK)


def _target(archive: Path, root: Path, name: str) -> Path:
    """Where a member goes. Raises DataError where that is not below `root`, links already there included."""
    parts = PurePosixPath(name).parts
    bad = name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or (name[1:2] == ":")
    target = root / name
    if bad or not target.parent.resolve().is_relative_to(root) or target.is_symlink():
        raise DataError(f"{archive}: {name!r} leaves the folder {root}: refused")
    return target


def free_bytes(folder: Path) -> int:
    """Free space of the disk that holds `folder` or its nearest parent that exists."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
