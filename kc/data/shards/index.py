"""The index of the shards of one split: plain arrays in one `.npz`, so that a million samples open in an instant."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from kc.errors import DataError
from kc.outside import plain_name
from kc.types import Int64Array, UInt8Array

SCHEMA = 2
"""In 1 ids from 254 on were two more, because 254 and 255 were hidden and void."""


_NUMBERS = ("class_ids", "shard", "offset", "size", "crc", "id_text", "id_ends", "shard_bytes")


class OldSchemaError(DataError):
    """An index of another schema."""


class PackedIds(Sequence[str]):
    """Sample ids in one array of bytes: no Python object a sample, a string only for who asks for it.

    `text` uint8: all ids in UTF-8; `ends` (n,) int64: where each ends; `rows`: those that are shown, None for all.
    """

    def __init__(self, text: UInt8Array, ends: Int64Array, rows: Int64Array | None = None) -> None:
        self.text, self.ends, self.rows = text, ends, rows

    def __len__(self) -> int:
        return len(self.ends) if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = index % len(self) if self.rows is None else int(self.rows[index])
        start = int(self.ends[row - 1]) if row else 0
        return self.text[start : int(self.ends[row])].tobytes().decode()

    @classmethod
    def pack(cls, ids: Iterable[str]) -> PackedIds:
        """Of strings."""
        encoded = [i.encode() for i in ids]
        return cls(
            np.frombuffer(b"".join(encoded), dtype=np.uint8), np.cumsum([len(e) for e in encoded], dtype=np.int64)
        )


@dataclass(frozen=True)
class ShardIndex:
    """Where each of n samples lies in S shards, and which of C classes it holds.

    `shard` (n,) int32, `offset`, `size` (n,) int64 in bytes, `crc` (n,) uint32 of those bytes; `packed` (n, C / 8) the
    class table as bits; `names` (S,) file names, `shard_bytes` (S,) int64, `counts` (S, C) int64: samples a class.
    `plan`: what the shards were written from. Samples stand in the order of the reader they were written from, which
    is that of shards and offsets too.
    """

    class_ids: Int64Array
    shard: npt.NDArray[np.int32]
    offset: Int64Array
    size: Int64Array
    crc: npt.NDArray[np.uint32]
    packed: UInt8Array
    id_text: UInt8Array
    id_ends: Int64Array
    names: npt.NDArray[np.str_]
    shard_bytes: Int64Array
    counts: Int64Array
    plan: str

    def __len__(self) -> int:
        return len(self.shard)

    @cached_property
    def ids(self) -> PackedIds:
        """The sample ids."""
        return PackedIds(self.id_text, self.id_ends)

    @property
    def n_bytes(self) -> int:
        """What must be read to know where samples lie (ids are not part of it)."""
        return sum(a.nbytes for a in (self.shard, self.offset, self.size, self.crc, self.packed))

    def to_bytes(self) -> bytes:
        """As a file."""
        arrays: dict[str, Any] = {k: v for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        arrays = {k: v for k, v in arrays.items() if k in self.__dataclass_fields__}
        meta = json.dumps({"schema": SCHEMA, "plan": self.plan}).encode()
        file = io.BytesIO()
        np.savez(file, meta=np.frombuffer(meta, dtype=np.uint8), **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> ShardIndex:
        """Raises DataError for what is not a whole index, or names samples outside its shards."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                meta = json.loads(stored["meta"].tobytes())
                if meta["schema"] != SCHEMA:
                    raise OldSchemaError(
                        f"{where}: schema {meta['schema']!r} of shards, and this version reads {SCHEMA} (class ids are "
                        "counted differently): write the shards again with `kc data shards`"
                    )
                index = cls(**{k: stored[k] for k in cls.__dataclass_fields__ if k != "plan"}, plan=str(meta["plan"]))
        except OldSchemaError:
            raise
        except Exception as error:  # numpy, zipfile and json fail in many ways
            raise DataError(f"{where}: not an index of shards, or a damaged one ({error})") from error
        columns = [getattr(index, name) for name in _NUMBERS]
        if any(a.ndim != 1 or a.dtype.kind not in "iu" for a in columns) or index.names.ndim != 1:
            raise DataError(f"{where}: a damaged index of shards: a column is no list of whole numbers")
        for name in index.names.tolist():
            plain_name(name, where)
        n, s, c = len(index.shard), len(index.names), len(index.class_ids)
        lengths = {len(a) for a in (index.offset, index.size, index.crc, index.packed, index.id_ends)}
        fits = lengths <= {n} and index.counts.shape == (s, c) and len(index.shard_bytes) == s
        if fits and n:
            fits = bool(index.shard.min() >= 0 and index.shard.max() < s and index.offset.min() >= 0)
            fits = fits and bool(
                (index.size >= 0).all()
                and (index.offset <= index.shard_bytes[index.shard].astype(np.int64) - index.size).all()
                and (np.diff(index.id_ends, prepend=0) >= 0).all()
                and index.id_ends[-1] <= len(index.id_text)
            )
        if not fits:
            raise DataError(f"{where}: a damaged index of shards: its columns do not fit together")
        return index
