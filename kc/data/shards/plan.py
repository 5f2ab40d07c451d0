"""How the samples of a task are read from shards: in which order, and how many bytes that takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kc.data.shards.index import ShardIndex
from kc.types import Int64Array

BUFFER = 1000


def stream_order(shard: npt.NDArray[np.int32], rng: np.random.Generator, buffer: int = BUFFER) -> Int64Array:
    """A permutation of n samples that lie in shards `shard` (n,), in the order in which they lie there.

    Shards come in a random order, each from front to back; then a sample moves by fewer than `buffer` places, as in a
    shuffle buffer of that size, so that what is read at a time lies together. 1 keeps the order within a shard.
    """
    names, of_sample = np.unique(shard, return_inverse=True)
    place = rng.permutation(len(names))[of_sample]
    order = np.argsort(place, kind="stable")
    moved = np.argsort(np.arange(len(order)) + rng.random(len(order)) * (buffer - 1), kind="stable")
    return order[moved].astype(np.int64)


def task_bytes(index: ShardIndex, rows: Int64Array, block: int) -> int:
    """Bytes that one pass over the samples `rows` reads: the index, and the blocks of `block` bytes they lie in."""
    return blocks_of(index, rows, block) * block + index.n_bytes


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
