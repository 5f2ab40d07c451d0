"""What files are now: by what the kernel knows of them, and by their contents where that changed."""

from __future__ import annotations

import hashlib
import os
import re
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple, TypeVar

from kc.files import cache_dir, write_atomic

MOST_FILES, MOST_BYTES = 20_000, 1 << 31
"""Folders of more are known by stamps alone: their files are never read, and a copy of them is another folder."""
_RUN = re.compile(r"\d{8}-\d{6}-.")
_SHOWN = 3
_NO_FILE = "no file"
_THREADS = 4
_TICK, _COARSE_TICK = 50_000_000, 2_000_000_000
"""Nanoseconds within which two changes may have one time: of most file systems, of those with whole seconds."""

Scanned = TypeVar("Scanned")


class FileStamp(NamedTuple):
    """`name` below the folder; `path` that is opened; `stamp`: resolved path, device, inode, size, times, as text."""

    name: str
    path: str
    stamp: str
    size: int
    changed: int


def folder_key(root: Path) -> str:
    """What the files below `root` are, as hex digits: the same for a copy elsewhere, another for any other content.

    Files are read once, and again where their stamps change. In folders of more than MOST_FILES files or MOST_BYTES
    bytes the stamps themselves are the key, which then begins with `stamps-`. Links are followed; runs of kc and its
    cache are left out.
    """
    files = _settled(lambda: _scanned(root), lambda found: max((f.changed for f in found), default=0))
    quick = _digest(f"{f.name}\0{f.stamp}\n" for f in files)
    table = cache_dir() / "content" / f"{_digest([os.path.realpath(root)])}.stamps"
    head, _, body = _stored(table).partition("\n")
    known, _, key = head.partition(" ")
    if known == quick:
        return key
    if len(files) > MOST_FILES or sum(f.size for f in files) > MOST_BYTES:
        tokens, kind = [_digest([f.stamp]) for f in files], "stamps-"
    else:
        before = dict(zip(*[iter(body.split("\n"))] * 2, strict=False))
        with ThreadPoolExecutor(_THREADS) as pool:
            tokens, kind = list(pool.map(lambda f: before.get(_digest([f.stamp])) or _content(f), files)), ""
    pairs = [(f.name, token) for f, token in zip(files, tokens, strict=True)]
    key = kind + _digest(f"{name}\0{token}\n" for name, token in pairs)
    _store(_listing(key), "\0".join(f"{token} {name}" for name, token in pairs))
    stamps = "\n".join(f"{_digest([f.stamp])}\n{token}" for f, token in zip(files, tokens, strict=True))
    _store(table, f"{quick} {key}\n{'' if kind else stamps}")
    return key


def files_key(paths: Iterable[str | Path]) -> str:
    """What single files are, by their stamps, as hex digits. Raises OSError where one is missing."""
    places = [os.path.realpath(path) for path in paths]

    def scan() -> list[os.stat_result]:
        return [os.stat(place) for place in places]

    found = _settled(scan, lambda stats: max((s.st_ctime_ns for s in stats), default=0))
    return _digest(f"{_stamp(place, stat)}\n" for place, stat in zip(places, found, strict=True))


def differences(before: str, now: str) -> str:
    """What differs between two keys of folders, in words, as far as the cache still knows what they listed."""
    old, new = _listed(before), _listed(now)
    if not old or not new:
        return ""
    kinds = {
        "changed": [name for name in old if name in new and new[name] != old[name]],
        "missing": [name for name in old if name not in new],
        "new": [name for name in new if name not in old],
    }
    if before.startswith("stamps-") or now.startswith("stamps-"):
        kinds = {"touched, moved or changed": kinds.pop("changed"), **kinds}
    return "; ".join(
        f"{len(names)} files {kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for kind, names in kinds.items()
        if names
    )


def _settled(scan: Callable[[], Scanned], newest: Callable[[Scanned], int]) -> Scanned:
    """What `scan` finds when the last change is so old that the next one will have another time."""
    found = scan()
    changed = newest(found)
    tick = _TICK if changed % 1_000_000_000 else _COARSE_TICK
    young = changed + tick - time.time_ns()
    if young <= 0:
        return found
    time.sleep(min(young, tick) / 1e9)  # more where the clock of a file server is ahead, which no waiting mends
    return scan()


def _scanned(root: Path) -> list[FileStamp]:
    """Every file below `root`, sorted by name."""
    found: list[FileStamp] = []
    cache = os.path.realpath(cache_dir())
    todo = [(str(root), "", frozenset[str]())]
    while todo:
        folder, prefix, above = todo.pop()
        real = os.path.realpath(folder)
        if real == cache or real in above:  # a link that leads back
            continue
        try:
            with os.scandir(folder) as opened:
                entries = list(opened)
        except OSError:
            continue  # what cannot be listed cannot be read either
        if prefix and _is_run(os.path.basename(folder), {entry.name for entry in entries}):
            continue
        for entry in entries:
            name = prefix + entry.name
            try:
                if entry.is_dir():
                    todo.append((entry.path, f"{name}/", above | {real}))
                    continue
                stat = entry.stat()
                if not S_ISREG(stat.st_mode):
                    raise OSError
            except OSError:  # a link that leads nowhere; a pipe, which a reader would wait for
                found.append(FileStamp(name, entry.path, _NO_FILE, 0, 0))
                continue
            place = os.path.realpath(entry.path) if entry.is_symlink() else f"{real}/{entry.name}"
            stamp = _stamp(place, stat)
            found.append(FileStamp(name, entry.path, stamp, stat.st_size, stat.st_ctime_ns))
    found.sort()
    return found


def _is_run(folder: str, names: Collection[str]) -> bool:
    """Whether a folder is that of a run of kc, which has its fingerprints only once its data was looked at."""
    return "config.yaml" in names and ("fingerprints.yaml" in names or bool(_RUN.match(folder)))


def _stamp(place: str, s: os.stat_result) -> str:
    return f"{place}\0{s.st_dev} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}"


def _content(file: FileStamp) -> str:
    try:
        if file.stamp == _NO_FILE:
            raise OSError
        with open(file.path, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()[:32]
    except OSError:
        return _digest([file.stamp])


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _listing(key: str) -> Path:
    return cache_dir() / "content" / f"{key}.files"


def _listed(key: str) -> Mapping[str, str]:
    pairs = (line.partition(" ") for line in _stored(_listing(key)).split("\0"))
    return {name: token for token, _, name in pairs if name}


def _store(path: Path, text: str) -> None:
    write_atomic(path, zlib.compress(text.encode(errors="surrogateescape"), 1), sync=False)


def _stored(path: Path) -> str:
    """The text in a file of the cache, or nothing where there is none or it is damaged (zlib has a checksum)."""
    try:
        return zlib.decompress(path.read_bytes()).decode(errors="surrogateescape")
    except (OSError, zlib.error):
        return ""
