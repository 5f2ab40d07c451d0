"""Which rows are there already: keys (sample, segment) as numbers, in sorted arrays, 8 bytes a row."""

from __future__ import annotations

import numpy as np

from kc.memory.table import NameColumn
from kc.types import BoolArray, Int64Array

_PLAIN = 2**31
"""Segments from 0 to below this stand for themselves."""


class KeyNumbers:
    """Gives every key (sample, segment) a number: that of its sample in the upper half, of its segment in the lower."""

    def __init__(self) -> None:
        self._samples: dict[str, int] = {}
        self._odd: dict[int, int] = {}

    def of(self, sample: NameColumn, segment: Int64Array) -> Int64Array:
        """(N,) the number of each key; the same key gets the same number at every call."""
        known = self._samples
        codes = np.fromiter((known.setdefault(name, len(known)) for name in sample.names), np.int64, len(sample.names))
        odd = (segment < 0) | (segment >= _PLAIN)
        if odd.any():
            segment = segment.copy()
            segment[odd] = [_PLAIN + self._odd.setdefault(s, len(self._odd)) for s in segment[odd].tolist()]
        return (codes[sample.codes] << 32) | segment


class KeySet:
    """A set of numbers that grows by many at once: a few sorted runs, of which a longer one swallows the shorter."""

    def __init__(self) -> None:
        self._runs: list[Int64Array] = []

    def add(self, numbers: Int64Array) -> None:
        """Add numbers (N,), each of them new and given once."""
        if len(numbers) == 0:
            return
        run = np.sort(numbers)
        # Every run is at least twice as long as the next: few runs to look through, few numbers sorted again.
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # which takes two sorted runs as they are
        self._runs.append(run)

    def update(self, other: KeySet) -> None:
        """Add all of another set that shares nothing with this one."""
        for run in other._runs:
            self.add(run)

    def holds(self, numbers: Int64Array) -> BoolArray:
        """(N,) whether each number is in the set."""
        found = np.zeros(len(numbers), bool)
        for run in self._runs:
            likely = np.flatnonzero((numbers >= run[0]) & (numbers <= run[-1]))
            place = np.searchsorted(run, numbers[likely])
            found[likely] |= run[place] == numbers[likely]
        return found
