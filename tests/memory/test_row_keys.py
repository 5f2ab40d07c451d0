"""Keys of rows as numbers, against plain sets."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from kc.memory.store.staging import NumberSet, RowNumbers
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


def test_sets_are_those_of_python() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = NumberSet(), set[int]()
    for _ in range(60):
        asked = rng.integers(0, 4000, rng.integers(0, 80))
        assert ours.holds(asked).tolist() == [n in theirs for n in asked.tolist()]
        fresh = np.array(sorted(set(asked.tolist()) - theirs), np.int64)
        rng.shuffle(fresh)
        ours.add(fresh)
        theirs |= set(fresh.tolist())
    sizes = [len(run) for run in ours._runs]
    assert sum(sizes) == len(theirs)
    assert all(a >= 2 * b for a, b in pairwise(sizes))  # few runs, however many additions
    more = NumberSet()
    more.add(np.array([9001, 9000]))
    ours.update(more)
    assert ours.holds(np.array([8999, 9000, 9001])).tolist() == [False, True, True]
