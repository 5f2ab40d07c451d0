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
from kc.memory.store.manifest import COLUMNS, DELTA_TYPES, INLINE_CHARS, NAMES, VECTORS, DeltaInfo, SegmentInfo
from kc.memory.store.table import NameColumn, Table, joined, names_in
from kc.types import Float32Array, Int64Array

MAX_ROWS = 65_536
"""Rows a segment at most: the unit of mapping, of checksums and of streaming."""


def _column(name: str) -> Any:
    return cached_property(lambda segment: segment._numbers(name))


class Segment:
    """One segment on disk. Columns are read on first use, vectors mapped; each file's checksum is checked then.

    `trusted`: this process wrote the files a moment ago, so reading them back proves nothing.
    """

    def __init__(self, root: Path, info: SegmentInfo, dim: int, trusted: bool = False) -> None:
        self.folder = root / "segments" / info.name
        self.info, self.dim = info, dim
        self._root, self._trusted = root, trusted
        self._seen: tuple[int, ...] | None = None
        """Identity of the mapped file when its checksum was compared."""

    def __len__(self) -> int:
        return self.info.rows

    def _path(self, name: str) -> Path:
        return files.within(self._root, f"segments/{self.info.name}/{name}")

    def _array(self, name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A column, mapped."""
        path = self._path(name)
        if not self._trusted:
            files.check_file(path, self.info.files[name])
        shape = (self.info.rows, self.dim) if name == VECTORS else (self.info.rows,)
        return load_array(path, dtype, shape)

    def _numbers(self, column: str) -> npt.NDArray[Any]:
        return np.array(self._array(COLUMNS[column], np.float32 if column == "weight" else np.int64))

    def _names(self, kind: str) -> NameColumn:
        path = self._path(f"{kind}s.jsonl")
        if not self._trusted:
            files.check_file(path, self.info.files[path.name])
        codes = np.array(self._array(f"{kind}.npy", np.int32))
        try:
            names = names_in(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise CorruptMemoryError(f"{path}: no table of names ({error})") from error
        if codes.min() < 0 or codes.max() >= len(names) or not all(isinstance(name, str) for name in names):
            raise CorruptMemoryError(f"{path}: a row has a name that its table lacks")
        return NameColumn(codes, names)

    @cached_property
    def _vectors_path(self) -> Path:
        return self._path(VECTORS)

    @cached_property
    def vectors(self) -> Float32Array:
        """(N, D) float32, memory-mapped."""
        self._seen = files.identity(self._vectors_path)  # before its checksum is compared
        return self._array(VECTORS, np.float32)

    def check_again(self) -> None:
        """Compare the checksum of the mapped file again if anything touched it; CorruptMemoryError if it differs."""
        seen = files.identity(self._vectors_path)
        if not seen or self._seen not in (None, seen):
            files.check_file(self._vectors_path, self.info.files[VECTORS])
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
    folder = files.within(root, f"segments/{name}")
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
    folder = files.within(root, "deltas")
    folder.mkdir(exist_ok=True)
    ref = files.write_array(folder / name, record)
    files.sync_folder(folder)
    return DeltaInfo(seq=seq, kind=kind, name=name, rows=len(ids), ref=ref)


def room_for_deltas(deltas: Iterable[DeltaInfo]) -> int:
    """Characters that a further delta may take in the manifest."""
    return INLINE_CHARS - sum(len(d.data) for d in deltas)


def read_delta(root: Path, info: DeltaInfo) -> tuple[Int64Array, npt.NDArray[Any]]:
    """Ids and values of a delta; CorruptMemoryError if they are not what was written."""
    dtype = DELTA_TYPES[info.kind]
    if info.ref is not None:
        path = files.within(root, f"deltas/{info.name}")
        files.check_file(path, info.ref)
        record = load_array(path, [("id", np.int64), ("value", dtype)], (info.rows,))
        return np.array(record["id"]), np.array(record["value"])
    size = info.rows * (8 + (0 if info.kind == "tombstones" else np.dtype(dtype).itemsize))
    try:
        columns = zlib.decompressobj().decompress(base64.b64decode(info.data), size + 1)
    except (ValueError, OverflowError, zlib.error) as error:
        raise CorruptMemoryError(f"{root}: change {info.name} is damaged ({error})") from error
    if len(columns) != size:
        raise CorruptMemoryError(f"{root}: change {info.name} is not of {info.rows} rows")
    ids = np.frombuffer(columns, np.int64, info.rows)
    return ids, ids if info.kind == "tombstones" else np.frombuffer(columns, dtype, offset=ids.nbytes)


def load_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """An .npy file, mapped, so that a header which says more than there is allocates nothing; CorruptMemoryError for
    another type or shape."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # whatever NumPy makes of a header that is not its own
        raise CorruptMemoryError(f"{path}: no array ({error})") from error
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise CorruptMemoryError(f"{path}: {array.dtype} {array.shape}, the manifest says {np.dtype(dtype)} {shape}")
    return array
