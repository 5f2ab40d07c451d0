"""Shards as a stream: read from front to back, shuffled by shard and in a buffer, each sample once an epoch.

For data that is too far away or too large for random access; where it is not, `kc.data.datamodule` reads shards as it
reads a folder, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Generic, TypeVar

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from kc.data.shards.plan import TaskBytes, shards_to_filter, task_bytes
from kc.data.shards.reader import ShardReader
from kc.errors import DataError
from kc.types import Int64Array, Sample

_Item = TypeVar("_Item")
_AT_ONCE = 4 << 20
"""Bytes that one read takes at most, where samples lie next to one another."""


class ShardStream(IterableDataset[_Item], Generic[_Item]):
    """Some samples of a reader of shards, as `make(epoch, index, sample)`.

    Of `nodes` machines (processes) this is number `node`; the workers of a DataLoader divide its part once more. Every
    sample comes exactly once an epoch, for any number of nodes and workers: the samples, in the order of the epoch, are
    cut into pieces that differ by at most one in length. `len` is the length of this node's piece.

    `rows`: the samples of a task (default: all); `class_ids`: classes of which each holds one, so that shards may be
    filtered by their counts where that reads less than looking each sample up (`cost` says what each way reads).
    `buffer`: samples of which the next is drawn at random, 1 keeps the order; shards are shuffled too. The order
    follows from (seed, epoch, node, worker). `kept`: samples that only the filter reads are never yielded.

    Raises DataError for a node that does not exist, or a buffer below 1.
    """

    def __init__(
        self,
        reader: ShardReader,
        make: Callable[[int, int, Sample], _Item],
        *,
        rows: Int64Array | None = None,
        class_ids: Collection[int] | None = None,
        buffer: int = 1000,
        seed: int = 0,
        node: int = 0,
        nodes: int = 1,
    ) -> None:
        if not 0 <= node < nodes:
            raise DataError(f"node {node} of {nodes} nodes does not exist; the first is 0")
        if buffer < 1:
            raise DataError(f"a shuffle buffer of {buffer} samples holds none; 1 keeps the order")
        if reader.rows is not None and (np.diff(reader.rows) <= 0).any():
            raise DataError("a stream of shards reads from front to back: its samples must be in the reader's order")
        self.reader, self.make = reader, make
        self.rows = np.arange(len(reader), dtype=np.int64) if rows is None else np.unique(rows)
        self.class_ids = class_ids
        self.buffer, self.seed, self.node, self.nodes = buffer, seed, node, nodes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, zero-based. Call it before iterating: workers get it when they start."""
        self.epoch = epoch

    def __len__(self) -> int:
        start, stop = _piece(len(self.rows), self.node, self.nodes)
        return stop - start

    @property
    def cost(self) -> TaskBytes:
        """Bytes that an epoch of all nodes reads, each way."""
        whole = self._of_index(self.rows)
        return task_bytes(self.reader.index, whole, self.class_ids, self.reader.store.block)

    def __iter__(self) -> Iterator[_Item]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        ordered = self._ordered()
        start, stop = _piece(len(ordered), self.node, self.nodes)
        first, last = _piece(stop - start, worker, workers)
        mine = ordered[start + first : start + last]
        epoch = self.epoch
        rng = np.random.default_rng([self.seed, epoch, self.node, worker])
        held: list[tuple[int, bytes]] = []
        for found in self._contents(mine):
            held.append(found)
            if len(held) >= self.buffer:
                yield self._made(epoch, held, rng)
        while held:
            yield self._made(epoch, held, rng)

    def _made(self, epoch: int, held: list[tuple[int, bytes]], rng: np.random.Generator) -> _Item:
        if self.buffer > 1:  # the chosen one changes places with the last, so that taking it out costs nothing
            i = int(rng.integers(len(held)))
            held[i], held[-1] = held[-1], held[i]
        index, content = held.pop()
        return self.make(epoch, index, self.reader.decode(index, content))

    def _of_index(self, rows: Int64Array) -> Int64Array:
        return rows if self.reader.rows is None else self.reader.rows[rows]

    def _ordered(self) -> Int64Array:
        """The samples of the epoch: shards in a random order, within a shard from front to back."""
        if self.buffer == 1:
            return self.rows
        shard = self.reader.index.shard[self._of_index(self.rows)]
        place = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.reader.index.names))
        return self.rows[np.argsort(place[shard], kind="stable")]

    def _contents(self, mine: Int64Array) -> Iterator[tuple[int, bytes]]:
        """(sample, its bytes): from neighbouring samples in one read; from everything between them by filter."""
        index, store = self.reader.index, self.reader.store
        filtering = self.cost.chosen == "filter"
        if filtering:  # a shard that its counts rule out cannot hold one of ours
            allowed = shards_to_filter(index, self._of_index(self.rows), self.class_ids)
            mine = mine[np.isin(index.shard[self._of_index(mine)], allowed)]
        rows = self._of_index(mine)
        start = 0
        while start < len(rows):
            stop = start + 1
            begin = int(index.offset[rows[start]])
            while stop < len(rows) and index.shard[rows[stop]] == index.shard[rows[start]]:
                gap = int(index.offset[rows[stop]] - index.offset[rows[stop - 1]] - index.size[rows[stop - 1]])
                end = int(index.offset[rows[stop]] + index.size[rows[stop]])
                if end - begin > _AT_ONCE or (gap > store.block and not filtering):
                    break
                stop += 1
            last = rows[stop - 1]
            name = str(index.names[index.shard[last]])
            content = store.read(name, begin, int(index.offset[last] + index.size[last]) - begin)
            for i in range(start, stop):
                offset = int(index.offset[rows[i]]) - begin
                yield int(mine[i]), content[offset : offset + int(index.size[rows[i]])]
            start = stop


def _piece(n: int, part: int, parts: int) -> tuple[int, int]:
    """Start and stop of piece `part` of `parts` that are as equal as they can be."""
    return n * part // parts, n * (part + 1) // parts
