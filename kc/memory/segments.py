"""Immutable segments of rows and the deltas that change older rows: how they are written, mapped and checked."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.errors import CorruptMemoryError
from kc.memory import files
from kc.memory.manifest import INLINE_CHARS, DeltaInfo, SegmentInfo
from kc.types import Float32Array, Int32Array, Int64Array

MAX_ROWS = 65_536
"""Rows a segment at most: the unit of mapping, of checksums and of streaming."""

VECTORS = "vectors.f32.npy"
DELTA_TYPES = {"tombstones": np.int64, "weights": np.float32, "relabels": np.int64}
"""Kind of delta -> type of its value column (a tombstone's value is the id again)."""


@dataclass(frozen=True)
class Table:
    """Rows in RAM, in one order: `vectors` (N, D), every other column (N,). `sample` and `source` are names."""

    vectors: Float32Array
    ids: Int64Array
    class_id: Int64Array
    task: Int64Array
    added: Int64Array
    weight: Float32Array
    segment: Int64Array
    sample: Sequence[str]
    source: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, chosen: npt.NDArray[Any] | slice) -> Table:
        """The chosen rows, copied."""
        index = np.arange(len(self))[chosen]
        return Table(
            vectors=self.vectors[index],
            ids=self.ids[index],
            class_id=self.class_id[index],
            task=self.task[index],
            added=self.added[index],
            weight=self.weight[index],
            segment=self.segment[index],
            sample=[self.sample[i] for i in index],
            source=[self.source[i] for i in index],
        )


def joined(tables: Sequence[Table]) -> Table:
    """Rows of at least one table, one after the other."""
    if len(tables) == 1:
        return tables[0]
    return Table(
        vectors=np.concatenate([t.vectors for t in tables]),
        ids=np.concatenate([t.ids for t in tables]),
        class_id=np.concatenate([t.class_id for t in tables]),
        task=np.concatenate([t.task for t in tables]),
        added=np.concatenate([t.added for t in tables]),
        weight=np.concatenate([t.weight for t in tables]),
        segment=np.concatenate([t.segment for t in tables]),
        sample=[name for t in tables for name in t.sample],
        source=[name for t in tables for name in t.source],
    )


def no_rows() -> Table:
    """A table without a row."""
    integers = np.zeros(0, np.int64)
    return Table(
        vectors=np.zeros((0, 0), np.float32),
        ids=integers,
        class_id=integers,
        task=integers,
        added=integers,
        weight=np.zeros(0, np.float32),
        segment=integers,
        sample=[],
        source=[],
    )


class Segment:
    """One segment on disk. Columns are read on first use, vectors mapped; each file's checksum is checked then.

    `trusted`: this process wrote the files a moment ago, so reading them back proves nothing.
    """

    def __init__(self, root: Path, info: SegmentInfo, trusted: bool = False) -> None:
        self.folder = root / "segments" / info.name
        self.info = info
        self._trusted = trusted

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

    def _names(self, name: str) -> list[str]:
        path = self.folder / name
        if not self._trusted:
            files.check_file(path, self.info.files[name])
        return names_in(path.read_bytes())

    @cached_property
    def vectors(self) -> Float32Array:
        """(N, D) float32, memory-mapped."""
        return self._array(VECTORS, mapped=True)

    @cached_property
    def ids(self) -> Int64Array:
        return self._array("ids.npy")

    @cached_property
    def class_id(self) -> Int64Array:
        return self._array("class.npy")

    @cached_property
    def task(self) -> Int64Array:
        return self._array("task.npy")

    @cached_property
    def added(self) -> Int64Array:
        return self._array("added.npy")

    @cached_property
    def weight(self) -> Float32Array:
        return self._array("weight.npy")

    @cached_property
    def segment(self) -> Int64Array:
        """Number of the region within its sample."""
        return self._array("segment.npy")

    @cached_property
    def sample(self) -> Int32Array:
        """(N,) index into `samples`."""
        return self._array("sample.npy")

    @cached_property
    def source(self) -> Int32Array:
        """(N,) index into `sources`."""
        return self._array("source.npy")

    @cached_property
    def samples(self) -> list[str]:
        return self._names("samples.jsonl")

    @cached_property
    def sources(self) -> list[str]:
        return self._names("sources.jsonl")

    def table(self, rows: npt.NDArray[Any] | slice = slice(None)) -> Table:
        """The chosen rows, copied to RAM."""
        return Table(
            vectors=np.array(self.vectors[rows]),
            ids=self.ids[rows],
            class_id=self.class_id[rows],
            task=self.task[rows],
            added=self.added[rows],
            weight=self.weight[rows],
            segment=self.segment[rows],
            sample=[self.samples[i] for i in self.sample[rows]],
            source=[self.sources[i] for i in self.source[rows]],
        )


def intern(names: Sequence[str]) -> tuple[Int32Array, bytes]:
    """Index of each name in the table of distinct names (in order of first use), and that table as JSON lines."""
    table = {name: i for i, name in enumerate(dict.fromkeys(names))}
    codes = np.fromiter((table[name] for name in names), np.int32, len(names))
    # ASCII escapes: a name with an exotic line separator must not split a line.
    return codes, "".join(json.dumps(name) + "\n" for name in table).encode()


def names_in(table: bytes) -> list[str]:
    """The distinct names in a table that `intern` made."""
    return [json.loads(line) for line in table.decode("ascii").splitlines()]


def write_segment(root: Path, name: str, table: Table) -> SegmentInfo:
    """Write `table` as the new folder segments/`name`, all of it fsynced. No reader sees it before a manifest does."""
    folder = root / "segments" / name
    folder.mkdir(parents=True)
    sample, samples = intern(table.sample)
    source, sources = intern(table.source)
    columns: dict[str, npt.NDArray[Any]] = {
        VECTORS: table.vectors,
        "ids.npy": table.ids,
        "class.npy": table.class_id,
        "task.npy": table.task,
        "added.npy": table.added,
        "weight.npy": table.weight,
        "segment.npy": table.segment,
        "sample.npy": sample,
        "source.npy": source,
    }
    refs = {file: files.write_array(folder / file, array) for file, array in columns.items()}
    refs["samples.jsonl"] = files.write_bytes(folder / "samples.jsonl", samples)
    refs["sources.jsonl"] = files.write_bytes(folder / "sources.jsonl", sources)
    files.sync_folder(folder)
    files.sync_folder(folder.parent)
    return SegmentInfo(
        name=name,
        rows=len(table),
        first_id=int(table.ids[0]),
        last_id=int(table.ids[-1]),
        added=int(table.added.max()),
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
