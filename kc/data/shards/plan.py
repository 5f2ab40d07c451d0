"""How the images of a task are read from shards that were written for all tasks, and how many bytes that takes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kc.data.shards.index import ShardIndex
from kc.types import Int64Array


@dataclass(frozen=True)
class TaskBytes:
    """Bytes one pass over a task reads. `by_index`: the blocks of its samples and the index that says where they lie;
    `by_filter`: every shard whose class counts show a class of the task, as a whole.
    """

    by_index: int
    by_filter: int

    @property
    def chosen(self) -> Literal["index", "filter"]:
        """Whichever reads less."""
        return "index" if self.by_index <= self.by_filter else "filter"

    @property
    def bytes(self) -> int:
        """What the chosen way reads."""
        return min(self.by_index, self.by_filter)


def task_bytes(index: ShardIndex, rows: Int64Array, class_ids: Collection[int] | None, block: int) -> TaskBytes:
    """Of the samples `rows`. `class_ids`: classes of which each of them holds one, None where that is not known.

    `block`: bytes that a read is rounded to.
    """
    shards = shards_to_filter(index, rows, class_ids)
    by_filter = int(index.shard_bytes[shards].sum()) + index.counts.nbytes
    return TaskBytes(blocks_of(index, rows, block) * block + index.n_bytes, by_filter)


def shards_to_filter(index: ShardIndex, rows: Int64Array, class_ids: Collection[int] | None) -> Int64Array:
    """Shards that hold a class of the task by their counts; where classes do not say it, those that hold its rows."""
    if class_ids is None:
        return np.unique(index.shard[rows]).astype(np.int64)
    columns = np.isin(index.class_ids, list(class_ids))
    return np.flatnonzero(index.counts[:, columns].any(axis=1)).astype(np.int64)


def blocks_of(index: ShardIndex, rows: Int64Array, block: int) -> int:
    """How many blocks of the shards hold a byte of these samples (the last of a shard counts as a whole one)."""
    if not len(rows):
        return 0
    rows = np.sort(rows)
    start = index.offset[rows] // block
    stop = (index.offset[rows] + index.size[rows] - 1) // block
    # Samples lie in order, so a sample shares at most its first block with the one before it in its shard.
    shared = (index.shard[rows][1:] == index.shard[rows][:-1]) & (start[1:] == stop[:-1])
    return int((stop - start + 1).sum() - shared.sum())
