"""Rewriting and checking of a memory's folder: compact, erase, sweep what a crash left, verify, repair.

Compaction gives fewer, fuller segments and fewer deltas that give every version the same answers, bit by bit. Only the
states that can be asked for count: each version and the present. What happened between two of them is joined into one
delta a kind, a row that none of them shows is dropped, and a row's own columns hold what the first state that shows it
says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.errors import CorruptMemoryError, RunError
from kc.memory.store import files
from kc.memory.store import manifest as manifests
from kc.memory.store.lock import LOCK_NAME
from kc.memory.store.manifest import DeltaInfo, MemoryManifest, SegmentInfo
from kc.memory.store.segments import MAX_ROWS, Segment, read_delta, room_for_deltas, write_delta, write_segment
from kc.memory.store.view import Columns, View
from kc.types import BoolArray, Float32Array, Int64Array

DERIVED = "cache"
"""Folder of indexes and tables that can be built again from the rows."""


def derived(root: Path) -> Path:
    """The folder of what is computed; CorruptMemoryError where it leads out of the memory."""
    return files.within(root, DERIVED)


def check_unused(root: Path) -> None:
    """Raise unless a new memory may be made in `root`: an empty folder, or one where making it was interrupted.

    RunError for a memory or foreign files, CorruptMemoryError for a memory that lost its pointer.
    """
    if (root / manifests.NAME).exists():
        raise RunError(f"{root} already holds a memory: open it, or choose another path")
    for path in sorted(root.iterdir()):
        if path.name in ("segments", "deltas"):
            raise CorruptMemoryError(f"{root} holds rows but no {manifests.NAME}: restore it from a copy")
        if path.name != LOCK_NAME and path.suffix != ".tmp":
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


def without_rows(
    root: Path, manifest: MemoryManifest, columns: Columns, erased: BoolArray
) -> tuple[MemoryManifest, set[str]]:
    """Write segments and deltas anew without the `erased` rows (a mask over `columns`).

    Returns the manifest that names the new files (not published), and the names of the new segments. Ids, added and
    order of the other rows stay, so every version still replays them.
    """
    number = manifest.number + 1
    next_segment = manifest.next_segment
    segments: list[SegmentInfo] = []
    new: set[str] = set()
    for i, segment in enumerate(columns.segments):
        out = erased[columns.offsets[i] : columns.offsets[i + 1]]
        if not out.any():
            segments.append(segment.info)
        elif not out.all():
            info = write_segment(root, f"{next_segment:06d}", [segment.table(np.flatnonzero(~out))])
            next_segment += 1
            segments.append(info)
            new.add(info.name)
    gone = columns.ids[erased]
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
            files.check_file(files.within(root, name), ref)
        except CorruptMemoryError as error:
            wrong.append(str(error))
    for path in sorted(derived(root).rglob(f"*{files.SEALED}")):
        try:
            files.check_sealed(path)
        except CorruptMemoryError as error:
            wrong.append(str(error))
    if wrong:
        raise CorruptMemoryError("; ".join(wrong))
    last = -1
    rows = 0
    for info in manifest.segments:
        segment = Segment(root, info, manifest.dim, trusted=True)
        ids = segment.ids
        if ids[0] <= last or (np.diff(ids) <= 0).any() or ids[-1] >= manifest.next_id:
            wrong.append(f"{segment.folder / 'ids.npy'}: ids do not ascend below {manifest.next_id}")
        # Every column is read, so its length is compared with the manifest's.
        _ = segment.vectors, segment.class_id, segment.task, segment.weight, segment.segment
        _ = segment.sample, segment.source
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


_Change = tuple[int, str, Int64Array, npt.NDArray[Any]]
"""Commit number, kind, ids and values of one delta."""


def compacted(
    root: Path, manifest: MemoryManifest, columns: Columns, states: Iterable[View]
) -> tuple[MemoryManifest, set[str]]:
    """Write segments and deltas anew so that every one of `states` (oldest first, over `columns`) stays what it is.

    Returns the manifest that names the new files (not published; `manifest` itself if there is nothing to gain), and
    the names of the new segments. Reads and holds one new segment at a time.
    """
    kept, class_id, weight, changes = _observed(columns, states)
    number = manifest.number + 1
    next_segment = manifest.next_segment
    segments: list[SegmentInfo] = []
    new: set[str] = set()
    changed = ~kept | (class_id != columns.class_id) | (weight != columns.weight)
    for run in _runs(columns, kept):
        if len(run) == 1 and not changed[_span(columns, run[0])].any():
            segments.append(columns.segments[run[0]].info)
            continue
        parts = []
        for i in run:
            span = _span(columns, i)
            rows = np.flatnonzero(kept[span])
            table = columns.segments[i].table(rows)
            parts.append(replace(table, class_id=class_id[span][rows], weight=weight[span][rows]))
        info = write_segment(root, f"{next_segment:06d}", parts)
        next_segment += 1
        segments.append(info)
        new.add(info.name)
    deltas: list[DeltaInfo] = []
    for change in changes:
        deltas.append(_delta(root, manifest, f"{number:06d}-{len(deltas):06d}-{change[1]}.npy", change, deltas))
    if (segments, deltas) == (list(manifest.segments), list(manifest.deltas)):
        return manifest, new
    manifest = replace(
        manifest, number=number, next_segment=next_segment, segments=tuple(segments), deltas=tuple(deltas)
    )
    return manifest, new


def _observed(columns: Columns, states: Iterable[View]) -> tuple[BoolArray, Int64Array, Float32Array, list[_Change]]:
    """Rows (N,) that some state shows; their class and weight (N,) where first shown; what changes between states."""
    kept = np.zeros(len(columns), bool)
    class_id, weight = columns.class_id.copy(), columns.weight.copy()
    changes: list[_Change] = []
    before: View | None = None
    for state in states:
        born = columns.added <= state.seq
        if before is not None:
            known = columns.added <= before.seq
            born &= ~known
            old = kept & known
            for kind, differs, values in (
                ("tombstones", before.visible & ~state.visible, columns.ids),
                ("weights", before.weight != state.weight, state.weight),
                ("relabels", before.class_id != state.class_id, state.class_id),
            ):
                rows = np.flatnonzero(old & differs)
                if len(rows):
                    changes.append((state.seq, kind, columns.ids[rows], values[rows]))
        kept |= born & state.visible
        class_id[born], weight[born] = state.class_id[born], state.weight[born]
        before = state
    # The columns of a dropped row do not matter.
    return kept, class_id, weight, changes


def _runs(columns: Columns, kept: BoolArray) -> list[list[int]]:
    """Numbers of the segments that become one: neighbours, so that ids still ascend, of `MAX_ROWS` rows at most.

    A segment of which nothing is kept is in none.
    """
    runs: list[list[int]] = []
    filled = MAX_ROWS
    for i in range(len(columns.segments)):
        n = int(kept[_span(columns, i)].sum())
        if n == 0:
            continue
        if filled + n > MAX_ROWS:
            runs.append([])
            filled = 0
        runs[-1].append(i)
        filled += n
    return runs


def _span(columns: Columns, i: int) -> slice:
    return slice(int(columns.offsets[i]), int(columns.offsets[i + 1]))


def _delta(root: Path, manifest: MemoryManifest, name: str, change: _Change, others: list[DeltaInfo]) -> DeltaInfo:
    """The old delta if it is the same, else a new one beside the `others`."""
    seq, kind, ids, values = change
    same = [d for d in manifest.deltas if (d.seq, d.kind) == (seq, kind)]
    if len(same) == 1:
        old_ids, old_values = read_delta(root, same[0])
        order = np.argsort(old_ids)
        if np.array_equal(old_ids[order], ids) and np.array_equal(old_values[order], values):
            return same[0]
    return write_delta(root, seq, kind, ids, values, name, room_for_deltas(others))
