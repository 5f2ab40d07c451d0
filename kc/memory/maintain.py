"""Health of a memory's folder: sweep what a crash left, erase rows for real, verify, repair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kc.errors import CorruptMemoryError, RunError
from kc.memory import files
from kc.memory import manifest as manifests
from kc.memory.lock import LOCK_NAME
from kc.memory.manifest import DeltaInfo, MemoryManifest, SegmentInfo
from kc.memory.segments import Segment, read_delta, room_for_deltas, write_delta, write_segment
from kc.memory.view import Columns
from kc.types import BoolArray

DERIVED = "cache"
"""Folder of indexes and tables that can be built again from the rows."""


def check_unused(root: Path) -> None:
    """Raise unless a new memory may be made in `root`: an empty folder, or one where making it was interrupted.

    RunError for a memory or foreign files, CorruptMemoryError for a memory that lost its pointer.
    """
    if (root / manifests.NAME).exists():
        raise RunError(f"{root} already holds a memory: open it, or choose another path")
    for path in sorted(root.iterdir()):
        if path.name in ("segments", "deltas"):
            raise CorruptMemoryError(f"{root} holds rows but no {manifests.NAME}: restore it from a copy")
        if path.name not in (LOCK_NAME, f"{manifests.NAME}.tmp"):
            raise RunError(f"{root} is not empty (it holds {path.name!r}): choose another path")


def sweep(root: Path, manifest: MemoryManifest) -> list[Path]:
    """Remove what `manifest` does not name; returns what was removed. For the writer only."""
    found = manifests.orphans(root, manifest)
    for path in found:
        files.remove(path)
    for folder in {p.parent for p in found}:
        if folder.is_dir():
            files.sync_folder(folder)
    return found


def drop_derived(root: Path) -> None:
    """Remove everything that was computed from rows."""
    files.remove(root / DERIVED)


def without(
    root: Path, manifest: MemoryManifest, columns: Columns, doomed: BoolArray
) -> tuple[MemoryManifest, set[str]]:
    """Write segments and deltas anew without the `doomed` rows (a mask over `columns`).

    Returns the manifest that names the new files (not published), and the names of the new segments. Ids, added and
    order of the other rows stay, so every version still replays them.
    """
    number = manifest.number + 1
    next_segment = manifest.next_segment
    segments: list[SegmentInfo] = []
    new: set[str] = set()
    for i, segment in enumerate(columns.segments):
        out = doomed[columns.offsets[i] : columns.offsets[i + 1]]
        if not out.any():
            segments.append(segment.info)
        elif not out.all():
            info = write_segment(root, f"{next_segment:06d}", [segment.table(np.flatnonzero(~out))])
            next_segment += 1
            segments.append(info)
            new.add(info.name)
    gone = columns.ids[doomed]
    deltas: list[DeltaInfo] = []
    for i, delta in enumerate(manifest.deltas):
        ids, values = read_delta(root, delta)
        keep = ~np.isin(ids, gone)
        if keep.all():
            deltas.append(delta)
        elif keep.any():
            # The number of this rewrite and the place in the list make the name new; `seq` stays what it was.
            name = f"{number:06d}-{i:06d}-{delta.kind}.npy"
            room = room_for_deltas(deltas)
            deltas.append(write_delta(root, delta.seq, delta.kind, ids[keep], values[keep], name, room))
    manifest = replace(
        manifest, number=number, next_segment=next_segment, segments=tuple(segments), deltas=tuple(deltas)
    )
    return manifest, new


def verify(root: Path, manifest: MemoryManifest) -> dict[str, Any]:
    """See `Memory.verify`."""
    wrong: list[str] = []
    named = manifest.named_files()
    for name, ref in named.items():
        try:
            files.check_file(root / name, ref)
        except CorruptMemoryError as error:
            wrong.append(str(error))
    for path in sorted((root / DERIVED).rglob(f"*{files.SEALED}")):
        try:
            files.check_sealed(path)
        except CorruptMemoryError as error:
            wrong.append(str(error))
    if wrong:
        raise CorruptMemoryError("; ".join(wrong))
    last = -1
    rows = 0
    for info in manifest.segments:
        segment = Segment(root, info, trusted=True)
        ids = segment.ids
        shape = segment.vectors.shape
        if shape != (info.rows, manifest.dim):
            wrong.append(f"{segment.folder}: vectors are {shape}, the manifest says {(info.rows, manifest.dim)}")
        if ids[0] <= last or (np.diff(ids) <= 0).any() or ids[-1] >= manifest.next_id:
            wrong.append(f"{segment.folder / 'ids.npy'}: ids do not ascend below {manifest.next_id}")
        for column in (segment.sample, segment.source):
            if column.codes.min() < 0 or column.codes.max() >= len(column.names):
                wrong.append(f"{segment.folder}: a row names a sample or source that its table lacks")
        # Every column is read, so its length is compared with the manifest's.
        _ = segment.class_id, segment.task, segment.weight, segment.segment
        if (segment.added > info.added).any():
            wrong.append(f"{segment.folder / 'added.npy'}: rows of a later commit than the manifest says")
        last, rows = int(ids[-1]), rows + info.rows
    if wrong:
        raise CorruptMemoryError("; ".join(wrong))
    return {
        "files": len(named) + 1,  # and the manifest, which was checked to get here
        "bytes": sum(size for size, _ in named.values()),
        "rows": rows,
        "orphans": [str(p.relative_to(root)) for p in manifests.orphans(root, manifest)],
    }


def repair(root: Path) -> list[str]:
    """See `Memory.repair`; the caller holds the lock."""
    manifest = manifests.load(root)
    return [f"removed {p.relative_to(root)}: the manifest does not name it" for p in sweep(root, manifest)]
