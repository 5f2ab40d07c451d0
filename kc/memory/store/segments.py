"""Immutable segments of rows and the deltas that change older rows: how they are written, mapped and checked."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.errors import CorruptMemoryError
from kc.memory.store import files
from kc.memory.store.manifest import INLINE_CHARS, DeltaInfo, SegmentInfo
from kc.memory.store.table import NameColumn, Table, joined, names_in
from kc.types import Float32Array, Int64Array

MAX_ROWS = 65_536
"""Rows a segment at most: the unit of mapping, of checksums and of streaming."""

VECTORS = "vectors.f32.npy"
COLUMNS = {
    "ids": "ids.npy",
    "class_id": "class.npy",
    "task": "task.npy",
    "added": "added.npy",
    "weight": "weight.npy",
    "segment": "segment.npy",
}
"""Column of numbers -> its file."""
NAMES = ("sample", "source")
"""Columns of names: codes in NAME.npy, the distinct names in NAMEs.jsonl."""
DELTA_TYPES = {"tombstones": np.int64, "weights": np.float32, "relabels": np.int64}
"""Kind of delta -> type of its value column (a tombstone's value is the id again)."""


def _column(name: str) -> Any:
    return cached_property(lambda segment: segment._array(COLUMNS[name]))


class Segment:
    """One segment on disk. Columns are read on first use, vectors mapped; each file's checksum is checked then.

    `trusted`: this process wrote the files a moment ago, so reading them back proves nothing.
    """

    def __init__(self, root: Path, info: SegmentInfo, trusted: bool = False) -> None:
        self.folder = root / "segments" / info.name
        self.info = info
        self._trusted = trusted
        self._seen: tuple[int, ...] | None = None
        """Identity of the mapped file when its checksum was compared."""

    def __len__(self) -> int:
        return self.info.rows

    def _array(self, name: str, mapped: bool = False) -> npt.NDArray[Any]:
        path = self.folder / name
        if not self._trusted:
            files.check_file(path, self.info.files[name])
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if len(array) != self.info.rows:
            raise CorruptMemoryError(f"{path}: {len(array)} rows, the manifest says {self.info.rows}")
        return array

    def _names(self, kind: str) -> NameColumn:
        path = self.folder / f"{kind}s.jsonl"
        if not self._trusted:
            files.check_file(path, self.info.files[path.name])
        return NameColumn(self._array(f"{kind}.npy"), names_in(path.read_bytes()))

    @cached_property
    def vectors(self) -> Float32Array:
        """(N, D) float32, memory-mapped."""
        self._seen = files.identity(self.folder / VECTORS)  # before its checksum is compared
        return self._array(VECTORS, mapped=True)

    def check_again(self) -> None:
        """Compare the checksum of the mapped file again if anything touched it; CorruptMemoryError if it differs."""
        seen = files.identity(self.folder / VECTORS)
        if not seen or self._seen not in (None, seen):
            files.check_file(self.folder / VECTORS, self.info.files[VECTORS])
            self._seen = seen

    ids: Int64Array = _column("ids")
    class_id: Int64Array = _column("class_id")
    task: Int64Array = _column("task")
    added: Int64Array = _column("added")
    weight: Float32Array = _column("weight")
    segment: Int64Array = _column("segment")
    """Number of the region within its sample."""
    sample: NameColumn = cached_property(lambda self: self._names("sample"))  # type: ignore[assignment]
    source: NameColumn = cached_property(lambda self: self._names("source"))  # type: ignore[assignment]

    def table(self, rows: Int64Array) -> Table:
        """The rows of these numbers, copied to RAM."""
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        names = {name: getattr(self, name).take(rows) for name in NAMES}
        return Table(vectors=np.take(self.vectors, rows, axis=0), **columns, **names)


def write_segment(root: Path, name: str, tables: Sequence[Table]) -> SegmentInfo:
    """Write the rows of `tables` as the new folder segments/`name`, all of it fsynced. No reader sees it before a
    manifest does."""
    folder = root / "segments" / name
    folder.mkdir(parents=True)
    # The keys are written from where they lie: joining them would be one more pass over all of them.
    rest = joined([replace(t, vectors=t.vectors[:0]) for t in tables])
    refs = {VECTORS: files.write_array(folder / VECTORS, *(t.vectors for t in tables))}
    refs |= {file: files.write_array(folder / file, getattr(rest, column)) for column, file in COLUMNS.items()}
    for kind in NAMES:
        names: NameColumn = getattr(rest, kind).used()
        refs[f"{kind}.npy"] = files.write_array(folder / f"{kind}.npy", names.codes)
        refs[f"{kind}s.jsonl"] = files.write_pieces(folder / f"{kind}s.jsonl", [names.to_bytes()])
    files.sync_folder(folder)
    files.sync_folder(folder.parent)
    return SegmentInfo(
        name=name,
        rows=len(rest),
        first_id=int(rest.ids[0]),
        last_id=int(rest.ids[-1]),
        added=int(rest.added.max()),
        files=refs,
    )


def write_delta(
    root: Path, seq: int, kind: str, ids: Int64Array, values: npt.NDArray[Any], name: str, room: int
) -> DeltaInfo:
    """What commit `seq` changes of rows that are older than it: as text if that takes at most `room` characters, else
    in the new file deltas/`name`."""
    record = np.empty(len(ids), dtype=[("id", np.int64), ("value", DELTA_TYPES[kind])])
    record["id"] = ids
    record["value"] = values
    columns = record["id"].tobytes() + (b"" if kind == "tombstones" else record["value"].tobytes())
    if len(columns) <= 8 * room:
        data = base64.b64encode(zlib.compress(columns, 1)).decode()
        if len(data) <= room:
            return DeltaInfo(seq=seq, kind=kind, name=name, rows=len(ids), ref=None, data=data)
    folder = root / "deltas"
    folder.mkdir(exist_ok=True)
    ref = files.write_array(folder / name, record)
    files.sync_folder(folder)
    return DeltaInfo(seq=seq, kind=kind, name=name, rows=len(ids), ref=ref)


def room_for_deltas(deltas: Iterable[DeltaInfo]) -> int:
    """Characters that a further delta may take in the manifest."""
    return INLINE_CHARS - sum(len(d.data) for d in deltas)


def read_delta(root: Path, info: DeltaInfo) -> tuple[Int64Array, npt.NDArray[Any]]:
    """Ids and values of a delta; CorruptMemoryError if the file is not what was written."""
    if info.ref is None:
        columns = zlib.decompress(base64.b64decode(info.data))
        ids = np.frombuffer(columns, np.int64, info.rows)
        dtype = DELTA_TYPES[info.kind]
        return ids, ids if info.kind == "tombstones" else np.frombuffer(columns, dtype, offset=ids.nbytes)
    path = root / "deltas" / info.name
    files.check_file(path, info.ref)
    record = np.load(path, allow_pickle=False)
    return record["id"], record["value"]
