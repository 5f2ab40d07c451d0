"""The order of an epoch that reads shards from front to back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
