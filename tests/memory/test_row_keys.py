"""Keys of rows as numbers, against plain sets."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from kc.memory.store.staging import NumberMap, RowNumbers
from kc.memory.store.table import NameColumn


def test_equal_keys_and_only_they_get_the_same_number() -> None:
    odd = [-1, 2**31, 2**31 - 1, 2**32, 2**62, -(2**63), 0, 1]
    samples = [name for name in ("a", "b", "c") for _ in odd]
    segments = np.array(3 * odd)
    numbers = RowNumbers()
    first = numbers.of(NameColumn.of(samples), segments)
    assert len(np.unique(first)) == len(samples)
    # Another column with other codes for the same names.
    turned = numbers.of(NameColumn.of(["new", *samples[::-1]]), np.array([0, *segments[::-1]]))
    assert np.array_equal(turned[1:], first[::-1])
    assert turned[0] not in first
    assert segments.tolist() == 3 * odd  # not changed in place
    assert RowNumbers().of(NameColumn.of([]), np.zeros(0, np.int64)).shape == (0,)


def test_maps_are_those_of_python() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = NumberMap(), dict[int, int]()
    for turn in range(60):
        asked = rng.integers(0, 4000, rng.integers(0, 80))
        assert ours.find(asked).tolist() == [theirs.get(n, -1) for n in asked.tolist()]
        distinct = rng.permutation(np.unique(asked))  # known ones get another value
        values = turn * 10_000 + np.arange(len(distinct))
        ours.add(distinct, values)
        theirs |= dict(zip(distinct.tolist(), values.tolist(), strict=True))
    everything = np.arange(4000)
    assert ours.find(everything).tolist() == [theirs.get(n, -1) for n in range(4000)]
    sizes = [len(run) for run, _ in ours._runs]
    assert all(a >= 2 * b for a, b in pairwise(sizes))  # few runs, however many additions
    more = NumberMap()
    more.add(np.array([9001, 9000]), np.array([1, 0]))
    ours.update(more, 500)
    assert ours.find(np.array([8999, 9000, 9001])).tolist() == [-1, 500, 501]
