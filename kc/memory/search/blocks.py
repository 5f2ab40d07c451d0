"""Rows that are searched together: mapped where a segment's rows follow each other, masked or gathered where not.

Each block proposes rows by float32 inner product; `search.py` decides among them in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kc.memory.search.threads import faiss, parallel_for
from kc.memory.store.view import Columns
from kc.types import BoolArray, Float32Array, Int64Array

BLOCK_ROWS = 65_536
SCRATCH_ROWS = 1024
COPIED_ROWS = 4096
MAX_HIDDEN = 0.2
"""Share of a run's rows that may be hidden where more rows are asked for than are wanted."""
# Costs of handling one row, in units of the product of one row with one query inside a large batch (768-d, one core).
READ_COST = 7.0
COPY_COST = 30.0
MASKED_COST = 6.5
Float64Array = npt.NDArray[np.float64]


def _gather_rising(columns: Columns, positions: Int64Array, out: Float32Array) -> None:
    bounds = np.searchsorted(positions, columns.offsets)
    for i in np.flatnonzero(np.diff(bounds)):
        part = slice(bounds[i], bounds[i + 1])
        rows = positions[part] - columns.offsets[i]
        np.take(columns.segments[i].vectors, rows, axis=0, out=out[part], mode="clip")


def gather(columns: Columns, positions: Int64Array, out: npt.NDArray[np.float32] | Float64Array) -> None:
    """Copy the keys at `positions` (N,) into `out` (N, D), float32 or float64."""
    if out.dtype == np.float32 and len(positions) > SCRATCH_ROWS and bool((positions[1:] > positions[:-1]).all()):
        parallel_for(
            lambda part: _gather_rising(columns, positions[part], out[part]),  # type: ignore[arg-type]
            len(positions),
            SCRATCH_ROWS,
        )
        return
    scratch = np.empty((min(len(positions), SCRATCH_ROWS), out.shape[1]), np.float32)
    for first in range(0, len(positions), SCRATCH_ROWS):
        wanted = positions[first : first + SCRATCH_ROWS]
        order = np.argsort(wanted)
        ordered = wanted[order]
        bounds = np.searchsorted(ordered, columns.offsets)
        for i in np.flatnonzero(np.diff(bounds)):
            part = slice(bounds[i], bounds[i + 1])
            # `take` into a buffer that stays in the CPU's cache: fancy indexing allocates and faults pages in anew.
            rows = ordered[part] - columns.offsets[i]
            np.take(columns.segments[i].vectors, rows, axis=0, out=scratch[part], mode="clip")
        out[first + order] = scratch[: len(wanted)]


@dataclass(frozen=True)
class Block:
    """`positions` (n,) ascending. `run`: the mapped keys of all rows from the first to the last of them, or None.
    `keep`: (len(run),) which of these rows are meant, None = all. `copy`: the keys, gathered, if they are kept."""

    positions: Int64Array
    run: Float32Array | None
    keep: BoolArray | None = None
    copy: Float32Array | None = None

    def nearest(
        self, columns: Columns, queries: Float32Array, n: int, scratch: list[Float32Array]
    ) -> tuple[Float32Array, Int64Array]:
        """Scores and positions (Q, min(n, rows)), in no special order, of the best rows by float32 inner product.

        scratch: holds the memory for copied rows from one block to the next (new pages cost as much as the copy).
        """
        n = min(n, len(self.positions))
        if self.copy is not None:
            return self._listed(queries, self.copy, n)
        if self.run is None:
            return self._copied(columns, queries, n, scratch)
        if self.keep is None:
            return self._listed(queries, self.run, n)
        plan = cheapest_plan(len(queries), len(self.positions) / len(self.run))
        if plan == "overfetch":
            spare = overfetch_knn(queries, self.run, self.keep, n)
            if spare is not None:
                return spare[0], self.positions[0] + spare[1]
            plan = "copy"
        if plan == "copy":
            return self._copied(columns, queries, n, scratch)
        score, row = masked_knn(queries, self.run, self.keep, n)
        return score, self.positions[0] + row

    def _listed(self, queries: Float32Array, keys: Float32Array, n: int) -> tuple[Float32Array, Int64Array]:
        score, row = faiss.knn(queries, keys, n, metric=faiss.METRIC_INNER_PRODUCT)
        return score, self.positions[row]

    def _copied(
        self, columns: Columns, queries: Float32Array, n: int, scratch: list[Float32Array]
    ) -> tuple[Float32Array, Int64Array]:
        """From copies of so few rows at a time that they are still in the cache when they are multiplied."""
        scores, positions = [], []
        for first in range(0, len(self.positions), COPIED_ROWS):
            block = Block(self.positions[first : first + COPIED_ROWS], None)
            keys = block.load(columns, scratch)
            score, position = block._listed(queries, keys, min(n, len(keys)))
            scores.append(score)
            positions.append(position)
        return merge_lists(scores, positions, n)

    def part(self, first: int, end: int) -> Block:
        """The block of its rows from `first` to `end`."""
        positions = self.positions[first:end]
        copy = None if self.copy is None else self.copy[first:end]
        if self.run is None or len(positions) == 0:
            return Block(positions, None, copy=copy)
        if self.keep is not None:
            first, end = int(positions[0] - self.positions[0]), int(positions[-1] - self.positions[0]) + 1
        return Block(positions, self.run[first:end], None if self.keep is None else self.keep[first:end])

    def load(self, columns: Columns, scratch: list[Float32Array] | None = None) -> Float32Array:
        """The keys of exactly these rows, contiguous; in the memory of `scratch`, if given, until it is used again."""
        if self.copy is not None:
            return self.copy
        if self.run is not None and self.keep is None:
            return self.run
        shape = (len(self.positions), columns.segments[0].vectors.shape[1])
        if scratch is None:
            keys = np.empty(shape, np.float32)
        else:
            if not scratch or len(scratch[0]) < shape[0]:
                scratch[:] = [np.empty(shape, np.float32)]
            keys = scratch[0][: shape[0]]
        gather(columns, self.positions, keys)
        return keys


def split_blocks(blocks: list[Block], n: int) -> list[list[Block]]:
    """The same rows in `n` lists of blocks, each as many rows as the next."""
    starts = np.cumsum([0, *(len(b.positions) for b in blocks)])
    lists = []
    for i in range(n):
        low, high = int(starts[-1]) * i // n, int(starts[-1]) * (i + 1) // n
        parts = [
            (b, max(0, low - s), min(len(b.positions), high - s))
            for b, s in zip(blocks, starts[:-1].tolist(), strict=True)
        ]
        lists.append([b.part(first, end) for b, first, end in parts if first < end])
    return lists


def merge_lists(scores: list[Float32Array], positions: list[Int64Array], n: int) -> tuple[Float32Array, Int64Array]:
    """The `n` best of several lists (Q, any), in no special order."""
    if len(scores) == 1:
        return scores[0], positions[0]
    score, position = np.concatenate(scores, axis=1), np.concatenate(positions, axis=1)
    keep = np.argpartition(-score, n - 1, axis=1)[:, :n]
    return np.take_along_axis(score, keep, 1), np.take_along_axis(position, keep, 1)


def cheapest_plan(n_queries: int, fraction: float) -> str:
    """How to search `fraction` of the rows of a mapped run: "copy" them and multiply, "overfetch" from all rows, or
    compute each product of a query and a row alone ("masked")."""
    whole = max(READ_COST, n_queries) + READ_COST * (n_queries > 1)
    costs = {"copy": fraction * (COPY_COST + whole), "masked": fraction * max(READ_COST, MASKED_COST * n_queries)}
    if fraction >= 1 - MAX_HIDDEN:
        costs["overfetch"] = whole
    return min(costs, key=lambda plan: costs[plan])


def overfetch_knn(
    queries: Float32Array, run: Float32Array, keep: BoolArray, n: int
) -> tuple[Float32Array, Int64Array] | None:
    """The `n` best rows of `run` where `keep`, from more than `n` of all rows. None where too many queries have their
    best rows among the hidden ones, as those of a retired class have."""
    score, row = faiss.knn(queries, run, min(len(run), n + n // 2 + 8), metric=faiss.METRIC_INNER_PRODUCT)
    score[~keep[row]] = -np.inf
    best = np.argpartition(-score, n - 1, axis=1)[:, :n]
    score, row = np.take_along_axis(score, best, 1), np.take_along_axis(row, best, 1)
    lacking = np.flatnonzero(np.isneginf(score).any(axis=1))
    if MASKED_COST * len(lacking) > len(queries):
        return None
    if len(lacking):
        score[lacking], row[lacking] = masked_knn(queries[lacking], run, keep, n)
    return score, row


def masked_knn(queries: Float32Array, run: Float32Array, keep: BoolArray, n: int) -> tuple[Float32Array, Int64Array]:
    """The `n` best rows of `run` where `keep`, without touching the others: reads only what it needs, no BLAS."""
    score = np.empty((len(queries), n), np.float32)
    row = np.empty((len(queries), n), np.int64)
    bits = np.packbits(keep, bitorder="little")
    chosen = faiss.IDSelectorBitmap(len(keep), faiss.swig_ptr(bits))
    faiss.knn_inner_product(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(run),
        run.shape[1],
        len(queries),
        len(run),
        n,
        faiss.swig_ptr(score),
        faiss.swig_ptr(row),
        chosen,
    )
    return score, row


def plan_blocks(columns: Columns, mask: BoolArray, room: int) -> list[Block]:
    """Cut the rows of `mask` into blocks, none longer than BLOCK_ROWS.

    Gathered copies of filtered rows are kept for the next batch if they take at most `room` bytes together; otherwise
    they are gathered again.
    """
    blocks: list[Block] = []
    loose: list[Int64Array] = []
    holes: list[Block] = []
    for number, segment in enumerate(columns.segments):
        start = int(columns.offsets[number])
        rows = np.flatnonzero(mask[start : start + len(segment)])
        # Short runs are joined: one product over many small segments beats many small products.
        if len(rows) < BLOCK_ROWS // 16:
            loose += [rows + start] if len(rows) else []
            continue
        first, last = int(rows[0]), int(rows[-1]) + 1
        run = segment.vectors[first:last]
        if last - first == len(rows):
            blocks.append(Block(rows + start, run))
        else:
            holes.append(Block(rows + start, run, mask[start + first : start + last]))
    n_gathered = sum(len(p) for p in loose) + sum(len(b.positions) for b in holes)
    if n_gathered == 0:
        return blocks
    keep_copy = n_gathered * columns.segments[0].vectors.shape[1] * 4 <= room
    if keep_copy:
        loose += [b.positions for b in holes]
    else:
        blocks += holes
    joined = np.sort(np.concatenate(loose)) if loose else np.zeros(0, np.int64)
    for first in range(0, len(joined), BLOCK_ROWS):
        block = Block(joined[first : first + BLOCK_ROWS], None)
        blocks.append(Block(block.positions, None, copy=block.load(columns)) if keep_copy else block)
    return blocks
