"""Rows that wait in RAM for their commit, and the row numbers by which a region is stored once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.memory.store.inputs import as_ids, check_classes, check_weights
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


class NumberMap:
    """Number -> value, both int64, of many at once, held as a few sorted runs; the newest value of a number counts."""

    def __init__(self) -> None:
        self._runs: list[tuple[Int64Array, Int64Array]] = []

    def add(self, numbers: Int64Array, values: Int64Array) -> None:
        """Set the values (N,) of distinct numbers (N,)."""
        if len(numbers) == 0:
            return
        order = np.argsort(numbers)
        numbers, values = numbers[order], values[order]
        # Every run is at least twice as long as the next: few runs to look through, few numbers sorted again.
        while self._runs and len(self._runs[-1][0]) < 2 * len(numbers):
            older = self._runs.pop()
            numbers, values = np.concatenate([older[0], numbers]), np.concatenate([older[1], values])
            order = np.argsort(numbers, kind="stable")  # which takes two sorted runs as they are
            numbers, values = numbers[order], values[order]
            newest = np.append(numbers[1:] != numbers[:-1], True)
            if not newest.all():
                numbers, values = numbers[newest], values[newest]
        self._runs.append((numbers, values))

    def update(self, other: NumberMap, shift: int) -> None:
        """Add all of another map, its values grown by `shift`."""
        for numbers, values in other._runs:
            self.add(numbers, values + shift)

    def find(self, numbers: Int64Array) -> Int64Array:
        """(N,) the value of each number, -1 where it has none."""
        found = np.full(len(numbers), -1, np.int64)
        for run, values in self._runs:
            likely = np.flatnonzero((numbers >= run[0]) & (numbers <= run[-1]))
            place = np.searchsorted(run, numbers[likely])
            held = run[place] == numbers[likely]
            found[likely[held]] = values[place[held]]
        return found


UNIT_ROUNDING = 2.0**-22
"""How far from 1 the length of a stored key is at most: what float32 rounding leaves of a unit vector."""
_UNIT = 1e-3
"""How far from 1 the length of a key may come in (half precision leaves this much); beyond rounding it is fixed."""
NORM_ROWS = 1024
"""Keys whose lengths are taken at once, in float64: as many as stay in the CPU's cache."""


SAME_KEY = 1 - 1e-4
"""Cosine from which on two keys of one region count as the same: the features are cached in half precision."""

Repeats = Callable[[Int64Array, Table], BoolArray]
"""Ids (N,) of visible rows and new rows of the same regions -> (N,) whether each stays: see `repeats`."""


def repeats(new: Table, class_id: Int64Array, keys: Float32Array, background: Collection[int]) -> BoolArray:
    """(N,) whether a row that is held already stays when another of the same region comes.

    It stays where class and key are the same, whatever the source (that of who said it first stays), and where it has
    a class and `new` is background: that is also what classes of other tasks are labelled as.

    Args:
        new: the rows that come.
        class_id, keys: (N,) and (N, D) of the rows that are held.
        background: ids of background classes.
    """
    same = new.class_id == class_id
    hidden = ~same & np.isin(new.class_id, list(background))
    stays: BoolArray = (same & (np.einsum("nd,nd->n", new.vectors, keys) >= SAME_KEY)) | hidden
    return stays


class Staging:
    """What was added since the last commit. A row's key is (sample id, segment): of one key the last row counts."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._chunks: list[Table] = []
        """Their `ids` are those of the stored rows that they replace, -1 for none; their own are given when written."""
        self._numbers = RowNumbers()
        self._staged = NumberMap()
        """Number of a key -> place among the staged rows."""
        self._stored: NumberMap | None = None
        """Number of a key -> id of the visible stored row; None until the first `add` needs them."""

    def __len__(self) -> int:
        return sum(len(c) for c in self._chunks)

    def clear(self) -> None:
        """Forget the staged rows."""
        self._chunks = []
        self._staged = NumberMap()

    def committed(self, first_id: int) -> None:
        """The staged rows are stored now, with ids from `first_id` on."""
        if self._stored is not None:
            self._stored.update(self._staged, first_id)
        self.clear()

    def forget_stored(self) -> None:
        """Stored rows were removed: read their keys again when needed."""
        self._stored = None

    def replaced(self) -> Int64Array:
        """Ids of the stored rows that staged ones replace."""
        ids = np.concatenate([np.zeros(0, np.int64), *(c.ids for c in self._chunks)])
        return np.sort(ids[ids >= 0])

    def add_table(self, table: Table, view: Callable[[], View], stays: Repeats, background: Collection[int]) -> int:
        """Stage the rows of a checked `table` that `repeats` does not hold back; returns how many.

        Args:
            table: its ids and commit numbers do not count. Keeps its arrays: the caller must not change them.
            view: what is stored and visible.
            stays: `repeats` for rows of `view`.
            background: ids of background classes.
        """
        if self._stored is None:
            self._numbers = RowNumbers()  # names of rows that are gone are forgotten with them
            self._restage()
            self._stored = NumberMap()
            for sample, segment, ids in _visible_keys(view()):
                self._stored.add(self._numbers.of(sample, segment), ids)
        return self._add(table, self._stored, stays, background)

    def add_new(
        self,
        table: Table,
        sample: NameColumn,
        segment: Int64Array,
        ids: Int64Array,
        stays: Repeats,
        background: Collection[int],
    ) -> int:
        """The same, where `sample`, `segment` and `ids` (N,) are of the visible rows of the samples in `table`."""
        stored = NumberMap()
        stored.add(self._numbers.of(sample, segment), ids)
        return self._add(table, stored, stays, background)

    def _add(self, table: Table, stored: NumberMap, stays: Repeats, background: Collection[int]) -> int:
        number = self._numbers.of(table.sample, table.segment)
        last = len(number) - 1 - np.unique(number[::-1], return_index=True)[1]
        if len(last) < len(number):
            number, table = number[np.sort(last)], table.take(np.sort(last))
        place, ids = self._staged.find(number), stored.find(number)
        fresh = np.ones(len(table), bool)
        if len(again := np.flatnonzero(place >= 0)):
            held = self._at(place[again])
            fresh[again] = ~repeats(table.take(again), held.class_id, held.vectors, background)
        if len(known := np.flatnonzero((ids >= 0) & (place < 0))):
            fresh[known] = ~stays(ids[known], table.take(known))
        if not fresh.any():
            return 0
        if len(other := place[fresh & (place >= 0)]):
            self._without(other)
        self._staged.add(number[fresh], len(self) + np.arange(fresh.sum()))
        self._chunks.append(replace(table if fresh.all() else table.take(fresh), ids=ids[fresh]))
        return int(fresh.sum())

    def _at(self, places: Int64Array) -> Table:
        """The staged rows at these places, in their order, without copying the others."""
        order = np.argsort(places)
        parts = [self._chunks[i].take(places[order][own] - first) for i, first, own in self._owners(places[order])]
        return joined(parts).take(np.argsort(order))

    def _without(self, places: Int64Array) -> None:
        """Forget the staged rows at these places."""
        for i, first, own in self._owners(places):
            kept = np.ones(len(self._chunks[i]), bool)
            kept[places[own] - first] = False
            self._chunks[i] = self._chunks[i].take(kept)
        self._restage()

    def _owners(self, places: Int64Array) -> list[tuple[int, int, BoolArray]]:
        """Number and first place of each chunk that holds some of the rows, and (N,) which they are."""
        ends = np.cumsum([len(c) for c in self._chunks])
        number = np.searchsorted(ends, places, side="right")
        return [(i, int(ends[i]) - len(self._chunks[i]), number == i) for i in np.unique(number).tolist()]

    def _restage(self) -> None:
        """Number the staged keys anew."""
        self._staged, first = NumberMap(), 0
        for chunk in self._chunks:
            self._staged.add(self._numbers.of(chunk.sample, chunk.segment), np.arange(first, first + len(chunk)))
            first += len(chunk)

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
    if rows.keys.dtype.kind not in "fiu":
        raise ValueError(f"keys must be numbers, got {rows.keys.dtype}")
    if rows.weight is not None and rows.weight.shape != (n,):
        raise ValueError(f"weight must be ({n},), got {rows.weight.shape}")
    return checked(
        Table(
            vectors=rows.keys,
            ids=np.zeros(n, np.int64),
            class_id=as_ids(rows.class_id, "class ids"),
            task=np.full(n, task, np.int64),
            added=np.zeros(n, np.int64),
            weight=check_weights(1.0 if rows.weight is None else rows.weight, n),
            segment=as_ids(rows.segment, "segments"),
            sample=NameColumn.of(rows.sample_id),
            source=NameColumn(np.zeros(n, np.int32), [rows.source]),
        )
    )


def checked(table: Table) -> Table:
    """The rows as they are stored: keys copied and of unit length up to float32 rounding; those that already are keep
    every bit. ValueError, saying what was expected and what came, for rows that cannot be stored."""
    check_classes(table.class_id, len(table))
    check_weights(table.weight, len(table))
    for name in (*table.sample.names, *table.source.names):
        if not isinstance(name, str):
            raise ValueError(f"samples and sources must be text, got {name!r}")
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


def _visible_keys(view: View) -> Iterator[tuple[NameColumn, Int64Array, Int64Array]]:
    for number, segment in enumerate(view.columns.segments):
        span = slice(int(view.columns.offsets[number]), int(view.columns.offsets[number + 1]))
        rows = np.flatnonzero(view.visible[span])
        yield segment.sample.take(rows).used(), segment.segment[rows], view.columns.ids[span][rows]
