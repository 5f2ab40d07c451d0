"""Rows that wait in RAM for their commit, and the row numbers that keep a row from being stored twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.memory.store.inputs import check_classes, check_weights
from kc.memory.store.manifest import MemoryManifest, SegmentInfo
from kc.memory.store.segments import MAX_ROWS, write_segment
from kc.memory.store.table import NameColumn, Table, joined
from kc.memory.store.view import View, among
from kc.types import BoolArray, Float32Array, Int64Array, Rows

_PLAIN = 2**31
"""Segments from 0 to below this stand for themselves."""


class RowNumbers:
    """Gives every key (sample, segment) a number: that of its sample in the upper half, of its segment in the lower."""

    def __init__(self) -> None:
        self._samples: dict[str, int] = {}
        self._large: dict[int, int] = {}

    def of(self, sample: NameColumn, segment: Int64Array) -> Int64Array:
        """(N,) the number of each key; the same key gets the same number at every call."""
        known = self._samples
        codes = np.fromiter((known.setdefault(name, len(known)) for name in sample.names), np.int64, len(sample.names))
        large = (segment < 0) | (segment >= _PLAIN)
        if large.any():
            segment = segment.copy()
            segment[large] = [_PLAIN + self._large.setdefault(s, len(self._large)) for s in segment[large].tolist()]
        return (codes[sample.codes] << 32) | segment


class NumberSet:
    """A set of numbers that grows by many at once, held as a few sorted runs."""

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

    def update(self, other: NumberSet) -> None:
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


UNIT_ROUNDING = 2.0**-22
"""How far from 1 the length of a stored key is at most: what float32 rounding leaves of a unit vector."""
_UNIT = 1e-3
"""How far from 1 the length of a key may come in (half precision leaves this much); beyond rounding it is fixed."""
NORM_ROWS = 1024
"""Keys whose lengths are taken at once, in float64: as many as stay in the CPU's cache."""


class Staging:
    """What was added since the last commit. A row's key is (sample id, segment): stored or staged once."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._chunks: list[Table] = []
        """Without ids and commit number: they are given when written."""
        self._numbers = RowNumbers()
        self._staged = NumberSet()
        self._stored: NumberSet | None = None
        """Keys of visible stored rows; None until the first `add` needs them."""

    def __len__(self) -> int:
        return sum(len(c) for c in self._chunks)

    def clear(self) -> None:
        """Forget the staged rows."""
        self._chunks = []
        self._staged = NumberSet()

    def committed(self) -> None:
        """The staged rows are stored now."""
        if self._stored is not None:
            self._stored.update(self._staged)
        self.clear()

    def forget_stored(self) -> None:
        """Stored rows were removed: read their keys again when needed."""
        self._stored = None

    def add_table(self, table: Table, view: Callable[[], View]) -> int:
        """Stage the rows of a checked `table` whose key is neither staged nor visible in `view`; returns how many.

        Its ids and commit numbers do not count. Keeps its arrays: the caller must not change them.
        """
        if self._stored is None:
            self._numbers = RowNumbers()  # names of rows that are gone are forgotten with them
            self._restage()
            self._stored = NumberSet()
            for sample, segment in _visible_keys(view()):
                # A key is visible once only.
                self._stored.add(self._numbers.of(sample, segment))
        return self._add(table, self._stored)

    def add_new(self, table: Table, sample: NameColumn, segment: Int64Array) -> int:
        """The same, where `sample` and `segment` (N,) are the keys that are visible of the samples in `table`."""
        stored = NumberSet()
        stored.add(self._numbers.of(sample, segment))
        return self._add(table, stored)

    def _add(self, table: Table, stored: NumberSet) -> int:
        number = self._numbers.of(table.sample, table.segment)
        fresh = ~(self._staged.holds(number) | stored.holds(number))
        distinct, first = np.unique(number[fresh], return_index=True)
        if len(distinct) < len(table):
            table = table.take(np.flatnonzero(fresh)[np.sort(first)])
        if len(distinct):
            self._staged.add(distinct)
            self._chunks.append(table)
        return len(distinct)

    def _restage(self) -> None:
        """Number the staged keys anew."""
        self._staged = NumberSet()
        for chunk in self._chunks:
            self._staged.add(self._numbers.of(chunk.sample, chunk.segment))

    def drop(self, criteria: Mapping[str, Any]) -> int:
        """Forget the staged rows that meet every criterion (none has an id yet); returns how many."""
        before = len(self)
        if "ids" in criteria or before == 0:
            return 0
        kept = []
        for chunk in self._chunks:
            match = np.ones(len(chunk), bool)
            for name, value in criteria.items():
                if name in ("source", "sample_id"):
                    match &= (chunk.source if name == "source" else chunk.sample).among(value)
                else:
                    match &= among(chunk.class_id if name == "class_id" else chunk.task, value)
            kept.append(chunk.take(~match))
        self._chunks = [c for c in kept if len(c)]
        self._restage()
        return before - len(self)

    def write(self, root: Path, manifest: MemoryManifest, seq: int) -> list[SegmentInfo]:
        """Write the staged rows as new segments of commit `seq`; nothing is visible before the manifest names them."""
        return [
            write_segment(root, f"{manifest.next_segment + number:06d}", parts)
            for number, parts in enumerate(self._numbered(manifest.next_id, seq, MAX_ROWS))
        ]

    def tables(self, next_id: int, seq: int, size: int) -> Iterator[Table]:
        """The staged rows, at most `size` at once, with ids from `next_id` on and the number of their commit."""
        return map(joined, self._numbered(next_id, seq, size))

    def _numbered(self, next_id: int, seq: int, size: int) -> Iterator[list[Table]]:
        """The same in the pieces that they came in."""
        for first in range(0, len(self), size):
            parts = self._part(first, min(first + size, len(self)))
            ends = next_id + first + np.cumsum([len(t) for t in parts])
            yield [
                replace(t, ids=np.arange(end - len(t), end), added=np.full(len(t), seq))
                for t, end in zip(parts, ends.tolist(), strict=True)
            ]

    def _part(self, first: int, last: int) -> list[Table]:
        """Staged rows first..last, cut out of the chunks they came in."""
        part, start = [], 0
        for chunk in self._chunks:
            low, high = max(first - start, 0), min(last - start, len(chunk))
            if low < high:
                part.append(chunk.take(slice(low, high)))
            start += len(chunk)
        return part


def as_table(rows: Rows, task: int, dim: int) -> Table:
    """Rows of `task`, copied and checked, without ids and commit number. Raises what `checked` does."""
    n = len(rows.class_id)
    if rows.keys.shape != (n, dim):
        raise ValueError(f"keys must be ({n}, {dim}), got {rows.keys.shape}")
    if rows.segment.shape != (n,) or len(rows.sample_id) != n or rows.class_id.shape != (n,):
        raise ValueError(f"class_id, segment and sample_id must have one entry for each of the {n} keys")
    if rows.class_id.dtype.kind not in "iu":
        raise ValueError("class ids must be integers of at least 0")
    if rows.weight is not None and rows.weight.shape != (n,):
        raise ValueError(f"weight must be ({n},), got {rows.weight.shape}")
    return checked(
        Table(
            vectors=rows.keys,
            ids=np.zeros(n, np.int64),
            class_id=rows.class_id.astype(np.int64),
            task=np.full(n, task, np.int64),
            added=np.zeros(n, np.int64),
            weight=np.ones(n, np.float32) if rows.weight is None else rows.weight.astype(np.float32),
            segment=rows.segment.astype(np.int64),
            sample=NameColumn.of(rows.sample_id),
            source=NameColumn(np.zeros(n, np.int32), [rows.source]),
        )
    )


def checked(table: Table) -> Table:
    """The rows as they are stored: keys copied and of unit length up to float32 rounding; those that already are keep
    every bit. ValueError, saying what was expected and what came, for rows that cannot be stored."""
    check_classes(table.class_id, len(table))
    check_weights(table.weight, len(table))
    norm = norms(table.vectors)
    off = np.abs(norm - 1)
    if not (off <= _UNIT).all():  # also catches values that are not finite
        worst = int(np.argmax(np.nan_to_num(off, nan=np.inf)))
        raise ValueError(
            f"keys must be unit vectors: the one of sample {table.sample[worst]!r}, segment {table.segment[worst]}, "
            f"has length {norm[worst]:.4g}; L2-normalise keys and leave out regions without features"
        )
    return replace(table, vectors=renormalize(table.vectors, norm))


def renormalize(keys: npt.NDArray[Any], norm: npt.NDArray[np.float64] | None = None) -> Float32Array:
    """A copy of keys (N, D), float32, of unit length up to rounding; those that already are keep every bit.

    `norm` (N,): their lengths, where they are known.
    """
    norm = norms(keys) if norm is None else norm
    fixed: Float32Array = np.array(keys, np.float32, order="C")
    off = np.flatnonzero(np.abs(norm - 1) > UNIT_ROUNDING)
    fixed[off] = keys[off] / norm[off, None]
    return fixed


def norms(keys: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(N,) Euclidean length of each key (N, D), summed in float64: float32 sums err by more than `UNIT_ROUNDING`."""
    out = np.empty(len(keys), np.float64)
    buffer = np.empty((min(len(keys), NORM_ROWS), keys.shape[1]), np.float64)
    for first in range(0, len(keys), NORM_ROWS):
        part = buffer[: len(keys[first : first + NORM_ROWS])]
        part[:] = keys[first : first + NORM_ROWS]
        np.vecdot(part, part, out=out[first : first + NORM_ROWS])
    return np.sqrt(out, out=out)


def _visible_keys(view: View) -> Iterator[tuple[NameColumn, Int64Array]]:
    for number, segment in enumerate(view.columns.segments):
        rows = np.flatnonzero(view.visible[view.columns.offsets[number] : view.columns.offsets[number + 1]])
        yield segment.sample.take(rows).used(), segment.segment[rows]
