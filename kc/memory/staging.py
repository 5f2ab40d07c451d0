"""Rows that wait in RAM for their commit, and the keys that keep a row from being stored twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kc.memory.manifest import MemoryManifest, SegmentInfo
from kc.memory.segments import MAX_ROWS, Table, joined, write_segment
from kc.memory.view import View, as_ids, as_names
from kc.types import BoolArray, Float32Array, Rows

UNIT_ROUNDING = 2.0**-22
"""How far from 1 the length of a stored key is at most: what float32 rounding leaves of a unit vector."""
_UNIT = 1e-3
"""How far from 1 the length of a key may come in (half precision leaves this much); beyond rounding it is mended."""


class Staging:
    """What was added since the last commit. A row's key is (sample id, segment): stored or staged once."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._chunks: list[Table] = []
        """Without ids and commit number: they are given when written."""
        self._staged: set[tuple[str, int]] = set()
        self._stored: dict[str, set[int]] | None = None
        """Keys of visible stored rows; None until the first `add` needs them."""

    def __len__(self) -> int:
        return sum(len(c) for c in self._chunks)

    def clear(self) -> None:
        """Forget the staged rows."""
        self._chunks = []
        self._staged = set()

    def committed(self) -> None:
        """The staged rows are stored now."""
        if self._stored is not None:
            for sample, segment in self._staged:
                self._stored.setdefault(sample, set()).add(segment)
        self.clear()

    def forget_stored(self) -> None:
        """Stored rows were removed: read their keys again when needed."""
        self._stored = None

    def add(self, rows: Rows, task: int, view: View) -> int:
        """Stage the rows whose key is new; returns how many."""
        return self.add_table(as_table(rows, task, self.dim), view)

    def add_table(self, table: Table, view: View) -> int:
        """Stage the rows of a checked `table` whose key is new; its ids and commit numbers do not count."""
        if self._stored is None:
            self._stored = _stored_keys(view)
        return self.add_new(table, self._stored)

    def add_new(self, table: Table, stored: Mapping[str, set[int]]) -> int:
        """The same, where `stored` holds the segments of the samples that are visible."""
        new = []
        for i, key in enumerate(zip(table.sample, table.segment.tolist(), strict=True)):
            if key not in self._staged and key[1] not in stored.get(key[0], ()):
                self._staged.add(key)
                new.append(i)
        if new:
            chunk = table.take(np.array(new))  # indexing copies: the caller may reuse its arrays
            self._chunks.append(replace(chunk, vectors=exactly_unit(chunk.vectors)))
        return len(new)

    def drop(
        self, *, ids: Any = None, class_id: Any = None, source: Any = None, task: Any = None, sample_id: Any = None
    ) -> int:
        """Forget the staged rows that meet every criterion given (none has an id yet); returns how many."""
        before = len(self)
        if ids is not None or before == 0:
            return 0
        kept = []
        for chunk in self._chunks:
            match: BoolArray = np.ones(len(chunk), bool)
            if class_id is not None:
                match &= np.isin(chunk.class_id, as_ids(class_id))
            if task is not None:
                match &= np.isin(chunk.task, as_ids(task))
            if source is not None:
                wanted = as_names(source)
                match &= np.array([s in wanted for s in chunk.source], bool)
            if sample_id is not None:
                wanted = as_names(sample_id)
                match &= np.array([s in wanted for s in chunk.sample], bool)
            kept.append(chunk.take(~match))
        self._chunks = [c for c in kept if len(c)]
        self._staged = {key for c in self._chunks for key in zip(c.sample, c.segment.tolist(), strict=True)}
        return before - len(self)

    def write(self, root: Path, manifest: MemoryManifest, seq: int) -> list[SegmentInfo]:
        """Write the staged rows as new segments of commit `seq`; nothing is visible before the manifest names them."""
        written: list[SegmentInfo] = []
        for table in self.tables(manifest.next_id, seq, MAX_ROWS):
            written.append(write_segment(root, f"{manifest.next_segment + len(written):06d}", table))
        return written

    def tables(self, next_id: int, seq: int, size: int) -> Iterator[Table]:
        """The staged rows, at most `size` at once, with ids from `next_id` on and the number of their commit."""
        for first in range(0, len(self), size):
            table = joined(self._part(first, min(first + size, len(self))))
            ids = np.arange(next_id + first, next_id + first + len(table), dtype=np.int64)
            yield replace(table, ids=ids, added=np.full(len(table), seq, np.int64))

    def _part(self, first: int, last: int) -> list[Table]:
        """Staged rows first..last, cut out of the chunks they came in."""
        part, start = [], 0
        for chunk in self._chunks:
            low, high = max(first - start, 0), min(last - start, len(chunk))
            if low < high:
                part.append(chunk if high - low == len(chunk) else chunk.take(slice(low, high)))
            start += len(chunk)
        return part


def as_table(rows: Rows, task: int, dim: int) -> Table:
    """Rows of `task`, checked, without ids and commit number. Raises what `check_rows` does."""
    check_rows(rows, dim)
    n = len(rows)
    return Table(
        vectors=rows.keys,
        ids=np.zeros(n, np.int64),
        class_id=rows.class_id.astype(np.int64, copy=False),
        task=np.full(n, task, np.int64),
        added=np.zeros(n, np.int64),
        weight=np.ones(n, np.float32) if rows.weight is None else rows.weight.astype(np.float32),
        segment=rows.segment.astype(np.int64, copy=False),
        sample=rows.sample_id,
        source=[rows.source] * n,
    )


def exactly_unit(keys: Float32Array) -> Float32Array:
    """Keys of unit length up to float32 rounding; those that already are keep every bit."""
    norm = np.sqrt(np.einsum("nd,nd->n", keys, keys, dtype=np.float64))
    off = np.abs(norm - 1) > UNIT_ROUNDING
    mended = keys.astype(np.float32)
    mended[off] = keys[off] / norm[off, None]
    return mended


def check_rows(rows: Rows, dim: int) -> None:
    """ValueError, saying what was expected and what came, unless `rows` can be stored."""
    n = len(rows.class_id)
    if rows.keys.shape != (n, dim):
        raise ValueError(f"keys must be ({n}, {dim}), got {rows.keys.shape}")
    if rows.segment.shape != (n,) or len(rows.sample_id) != n or rows.class_id.shape != (n,):
        raise ValueError(f"class_id, segment and sample_id must have one entry for each of the {n} keys")
    if rows.class_id.dtype.kind not in "iu" or (n and rows.class_id.min() < 0):
        raise ValueError("class ids must be integers of at least 0")
    norm = np.sqrt(np.einsum("nd,nd->n", rows.keys, rows.keys, dtype=np.float64))
    if not (np.abs(norm - 1) <= _UNIT).all():  # also catches values that are not finite
        worst = int(np.argmax(np.nan_to_num(np.abs(norm - 1), nan=np.inf)))
        raise ValueError(
            f"keys must be unit vectors: the one of sample {rows.sample_id[worst]!r}, segment {rows.segment[worst]}, "
            f"has length {norm[worst]:.4g}; L2-normalise keys and leave out regions without features"
        )
    if rows.weight is not None:
        if rows.weight.shape != (n,):
            raise ValueError(f"weight must be ({n},), got {rows.weight.shape}")
        if not (np.isfinite(rows.weight).all() and (rows.weight >= 0).all()):
            raise ValueError("weights must be finite and at least 0")


def _stored_keys(view: View) -> dict[str, set[int]]:
    keys: dict[str, set[int]] = {}
    for number, segment in enumerate(view.columns.segments):
        start = view.columns.offsets[number]
        visible = view.visible[start : start + len(segment)].tolist()
        tables = [keys.setdefault(name, set()) for name in segment.samples]
        for seen, code, region in zip(visible, segment.sample.tolist(), segment.segment.tolist(), strict=True):
            if seen:
                tables[code].add(region)
    return keys
