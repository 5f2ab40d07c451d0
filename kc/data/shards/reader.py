"""Random access to the samples of shards: what a folder gives, from a few large files."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from kc.data.manifest import Manifest
from kc.data.readers.base import LayoutError
from kc.data.shards.fields import from_fields, members
from kc.data.shards.index import PackedIds, ShardIndex
from kc.data.shards.store import Store
from kc.data.splits import ShardsSplit
from kc.errors import DataError, ManifestError
from kc.types import VOID, BoolArray, Int64Array, Sample, SplitName, UInt8Array


@dataclass(frozen=True)
class ShardReader:
    """The samples of one split, in the order in which they were written. `rows`: those that are kept, None for all."""

    manifest: Manifest
    split: SplitName
    store: Store
    index: ShardIndex
    rows: Int64Array | None = None

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, store: Store) -> ShardReader:
        """Read the split's index.

        Raises:
            DataError: there is no index, or a damaged one.
            ManifestError: it is of other classes than the manifest's.
            LayoutError: shards that are missing, or of another size than when they were written.
        """
        part = manifest.splits[split]
        assert isinstance(part, ShardsSplit)
        where = f"{store.name}/{part.index}"
        if store.size(part.index) is None:
            raise DataError(f"{where}: no such index of shards; splits.{split}.index of {manifest.name} expects it")
        index = ShardIndex.from_bytes(store.read_file(part.index), where)
        if index.class_ids.tolist() != list(manifest.class_ids()):
            raise ManifestError(
                f"{where}: it is of other classes than {manifest.name}: {index.class_ids.tolist()[:20]}"
            )
        problems = []
        for name, size in zip(index.names.tolist(), index.shard_bytes.tolist(), strict=True):
            found = store.size(name)
            if found is None:
                problems.append(f"{store.name}/{name}: this shard is missing")
            elif found != size:
                problems.append(f"{store.name}/{name}: truncated or changed: {found} bytes, {size} when it was written")
        if problems:
            raise LayoutError(problems)
        if not len(index):
            raise DataError(f"{where}: no samples")
        return cls(manifest, split, store, index)

    def __len__(self) -> int:
        return len(self.index) if self.rows is None else len(self.rows)

    @cached_property
    def sample_ids(self) -> PackedIds:
        """As they were written."""
        return PackedIds(self.index.id_text, self.index.id_ends, self.rows)

    @cached_property
    def class_table(self) -> BoolArray:
        """(n, C) bool, from the index."""
        return np.unpackbits(self.packed_table, axis=1, count=len(self.index.class_ids)).view(np.bool_)

    @property
    def packed_table(self) -> UInt8Array:
        """(n, C / 8) uint8: the class table as bits."""
        return self.index.packed if self.rows is None else self.index.packed[self.rows]

    def read(self, index: int) -> Sample:
        """The sample at its original resolution."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.decode(index, self.raw(index))

    def raw(self, index: int) -> bytes:
        """The bytes of a sample, headers included, as they lie in the shard."""
        row = self.row(index)
        shard = str(self.index.names[self.index.shard[row]])
        return self.store.read(shard, int(self.index.offset[row]), int(self.index.size[row]))

    def decode(self, index: int, content: bytes) -> Sample:
        """The sample that `raw` gave.

        Raises:
            DataError: its bytes are not those that were written, or it does not fit the manifest.
        """
        row = self.row(index)
        where = f"{self.store.name}/{self.index.names[self.index.shard[row]]}: {self.sample_ids[index]}"
        if len(content) != int(self.index.size[row]) or zlib.crc32(content) != int(self.index.crc[row]):
            raise DataError(f"{where}: its bytes are not those that were written; the shard is damaged or truncated")
        sample = from_fields(members(content, where), where, self._known)
        if (sample.semantic is None) != (self.manifest.task_kind == "classification"):
            raise DataError(f"{where}: its labels are not those of a {self.manifest.task_kind} benchmark")
        return sample

    @cached_property
    def _known(self) -> frozenset[int]:
        return frozenset((VOID, *self.manifest.class_ids()))

    def row(self, index: int) -> int:
        """The row of the index that stands for a sample."""
        return index if self.rows is None else int(self.rows[index])

    def select(self, indices: Sequence[int]) -> Self:
        """A reader of only these samples."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(self, rows=chosen if self.rows is None else self.rows[chosen])
