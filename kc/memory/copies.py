"""Copies of rows that kc makes outside a memory: erased rows are taken out of them, and what stays is named."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kc.errors import KcError
from kc.files import cache_dir, hashed_path
from kc.memory.disk import Memory
from kc.memory.erasure import NOT_ERASED, Seeker, Traces, files_below
from kc.memory.store import exchange, files
from kc.memory.store import manifest as manifests

UNFINISHED = r"\.[0-9a-f]{32}\.tmp"
"""Name of a file of `atomic_path` that is not whole yet, or never will be."""
RECENT = 3600.0
"""Seconds in which a process may write one file."""


@dataclass(frozen=True)
class Copies:
    """`removed`: what was deleted, or written again without the rows; `left`: what still holds them, or may."""

    removed: tuple[str, ...]
    left: tuple[str, ...]


def run_of(memory: Path) -> Path | None:
    """The run that keeps a memory at RUN/methods/NAME/memory; None for another."""
    place = memory.absolute()
    inside = place.parent.parent.name == "methods" and (place.parents[2] / "config.yaml").is_file()
    return place.parents[2] if inside else None


def erase_copies(memory: Path, gone: Traces, keep_exports: bool = False) -> Copies:
    """Take erased rows out of what kc copied: files that wait for W&B in the run, caches of the images' features,
    regions and keys, folders that a killed process left behind, and exports (named only, with `keep_exports`).

    Nothing outside is followed or looked for: a file is deleted only where it holds a key or a name of the rows, an
    export only written again where it still is one.
    """
    seeker, removed, left = Seeker(gone), [], list[str]()
    for found in (_staged(memory, seeker), _left_behind(memory, seeker), _cached(gone, left)):
        for path in found:
            try:
                files.remove(path)
                removed.append(str(path))
            except OSError as error:
                left.append(f"{path}: it holds some of the rows and cannot be removed ({error.strerror})")
    for path in (p for p in exchange.noted(memory) if p.exists()):
        try:
            n = _in_copy(path, gone, keep_exports)
        except (KcError, ValueError, OSError) as error:
            left.append(f"{path}: was made from this memory, and cannot be read ({error}): delete it")
            continue
        if n:
            kept = keep_exports or path.is_dir()
            (left if kept else removed).append(f"{path}: {n:,} of the rows{'' if kept else ' taken out'}")
    left += _others_of_the_run(memory, gone, seeker)
    return Copies(tuple(removed), (*left, *NOT_ERASED))


def _staged(memory: Path, seeker: Seeker) -> Iterator[Path]:
    """What W&B copied to upload it, in the folder of the run and where WANDB_DATA_DIR says."""
    run, given = run_of(memory), os.environ.get("WANDB_DATA_DIR")
    places = ([run / "wandb"] if run else []) + ([Path(given)] if given else [])
    for path in files_below(*(place / "artifacts" for place in places if not place.is_symlink())):
        with path.open("rb") as file:
            begins = file.read(len(manifests.MAGIC))
        if any(seeker.look(path, names=begins[:1] == b'"' or begins == manifests.MAGIC.encode())):
            yield path


def _left_behind(memory: Path, seeker: Seeker) -> Iterator[Path]:
    """Folders and files of processes that were killed: temporary ones, and those beside an export or a migrated memory
    that was being written."""
    for folder in Path(tempfile.gettempdir()).glob("kc-*-*"):
        pid = re.match(r"kc-([0-9]+)-", folder.name)
        mine = folder.lstat().st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink()
        if pid and mine and not Path("/proc", pid[1]).exists() and _holds(folder, seeker):
            yield folder
    for copy in exchange.noted(memory):
        for path in sorted(copy.parent.glob(".*")):
            own = re.fullmatch(UNFINISHED, path.name) or path.name.startswith(f".{copy.name}.")
            if own and not path.is_symlink() and _holds(path, seeker):
                yield path


def _holds(path: Path, seeker: Seeker) -> bool:
    return any(any(seeker.look(p)) for p in (files_below(path) if path.is_dir() else [path]))


def _cached(gone: Traces, left: list[str]) -> Iterator[Path]:
    """Entries of the images in the caches of features, regions and keys, whatever their benchmark, and files beside
    them that a process did not finish: what began within `RECENT` may still be under way, and is `left`."""
    places = [hashed_path(Path(), name, "") for name in gone.samples]
    for folder, names, _ in os.walk(cache_dir() / "derived"):
        shards = {name for name in names if re.fullmatch("[0-9a-f]{2}", name)}
        names[:] = [name for name in names if name not in shards]
        for place in places if shards else ():
            if place.parent.name in shards:
                paths = (Path(folder) / place.with_suffix(suffix) for suffix in (".f16", ".f32", ".regions"))
                yield from (path for path in paths if path.is_file())
        for shard in {place.parent.name for place in places} & shards:
            for path in sorted(Path(folder, shard).glob(".*.tmp")):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.lstat().st_mtime > RECENT:
                        yield path
                    else:
                        left.append(f"{path}: of a process that is at work, or was killed within the hour")


def _in_copy(path: Path, gone: Traces, keep: bool) -> int:
    """How many of the rows are in another memory or an export; they are taken out of an export unless `keep`."""
    if path.is_dir():
        return len(Memory.open(path).ids(sample_id=gone.samples, retired=True))
    header, tables = exchange.read(path)
    keys = {key.tobytes() for key in gone.keys} - gone.twins
    out = [
        t.sample.among(gone.samples) & np.isin(t.ids, gone.ids)
        | np.fromiter((key.tobytes() in keys for key in t.vectors), bool, len(t))
        for t in tables
    ]
    n_rows, info = int(sum(o.sum() for o in out)), header.info
    names = {} if info is None else info.class_names
    if (n_rows or {*names.values()} & {*gone.names}) and not keep:
        if info is not None:
            info = info.with_names({i: name for i, name in names.items() if name not in gone.names})
        kept = [t.take(~o) for t, o in zip(tables, out, strict=True)]
        exchange.write(path, replace(header, rows=header.rows - n_rows, info=info), kept)
    return n_rows


def _others_of_the_run(memory: Path, gone: Traces, seeker: Seeker) -> Iterator[str]:
    """Other memories and the checkpoints of the run that hold some of the rows."""
    run = run_of(memory)
    for method in sorted((run / "methods").iterdir()) if run else ():
        other = method / "memory"
        if other != memory.absolute() and Memory.exists(other):
            try:
                if n := _in_copy(other, gone, True):
                    yield f"{other}: {n:,} rows of the same images (kc forget --memory {other})"
            except (KcError, OSError) as error:
                yield f"{other}: may hold rows of the same images, and cannot be read ({error})"
        for path in sorted(p for p in method.glob("*") if p.is_file() and not p.is_symlink()):
            if seeker.look(path, names=False)[0]:
                yield f"{path}: keys of the rows"
