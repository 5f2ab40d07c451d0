"""Rows that are searched together: mapped where a segment's rows follow each other, masked or gathered where not.

Each block proposes rows by float32 inner product; `search.py` decides among them in float64.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kc.memory.blas import faiss
from kc.memory.view import Columns
from kc.types import BoolArray, Float32Array, Int64Array

BLOCK_ROWS = 65_536
CACHE_BYTES = 512 * 2**20
"""Gathered copies of filtered rows are kept for the next batch up to this size; larger ones are gathered again."""
SCRATCH_ROWS = 1024
SCORE_BYTES = 2**20
"""Scores that a masked product holds at once."""
# Costs of handling one row, in units of the product of one row with one query inside a large batch (768-d, one core).
READ_COST = 7.0
COPY_COST = 30.0
LONE_COST = 6.5
Float64Array = npt.NDArray[np.float64]
_blas_lock = threading.RLock()


@contextlib.contextmanager
def blas_from(n_values: int) -> Iterator[None]:
    """FAISS takes BLAS once n_queries * dim reaches `n_values` (its own threshold makes 100 masks 9 times slower)."""
    with _blas_lock:
        before = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = n_values
        try:
            yield
        finally:
            faiss.cvar.distance_compute_blas_threshold = before


def _one_thread_in_child() -> None:
    # The OpenMP pool of the parent does not exist in a forked child: a parallel region there waits for ever.
    global _blas_lock
    _blas_lock = threading.RLock()
    faiss.omp_set_num_threads(1)


os.register_at_fork(after_in_child=_one_thread_in_child)


def gather(columns: Columns, positions: Int64Array, out: npt.NDArray[np.float32] | Float64Array) -> None:
    """Copy the keys at `positions` (N,) into `out` (N, D), float32 or float64."""
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

    def nearest(self, columns: Columns, queries: Float32Array, n: int) -> tuple[Float32Array, Int64Array]:
        """Scores and positions (Q, min(n, rows)), in no special order, of the best rows by float32 inner product."""
        n = min(n, len(self.positions))
        if self.copy is not None:
            return self._listed(queries, self.copy, n)
        if self.run is not None and self.keep is None:
            return self._listed(queries, self.run, n)
        if self.run is None or self.keep is None:
            return self._listed(queries, self.load(columns), n)
        plan = cheapest(len(queries), len(self.positions) / len(self.run))
        if plan == "copy":
            return self._listed(queries, self.load(columns), n)
        if plan == "lone":
            score, row = lone_products(queries, self.run, self.keep, n)
        else:
            score, row = masked_products(queries, self.run, self.keep, n)
        return score, self.positions[0] + row

    def _listed(self, queries: Float32Array, keys: Float32Array, n: int) -> tuple[Float32Array, Int64Array]:
        score, row = faiss.knn(queries, keys, n, metric=faiss.METRIC_INNER_PRODUCT)
        return score, self.positions[row]

    def load(self, columns: Columns) -> Float32Array:
        """The keys of exactly these rows, contiguous."""
        if self.copy is not None:
            return self.copy
        if self.run is not None and self.keep is None:
            return self.run
        keys = np.empty((len(self.positions), columns.segments[0].vectors.shape[1]), np.float32)
        gather(columns, self.positions, keys)
        return keys


def cheapest(n_queries: int, fraction: float) -> str:
    """How to search `fraction` of the rows of a mapped run: "copy" them and multiply, multiply all and "mask", or
    take each product of one query and one row "lone"."""
    whole = max(READ_COST, n_queries) + READ_COST * (n_queries > 1)
    costs = {
        "mask": whole,
        "copy": fraction * (COPY_COST + whole),
        "lone": fraction * max(READ_COST, LONE_COST * n_queries),
    }
    return min(costs, key=lambda plan: costs[plan])


def lone_products(queries: Float32Array, run: Float32Array, keep: BoolArray, n: int) -> tuple[Float32Array, Int64Array]:
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


def masked_products(
    queries: Float32Array, run: Float32Array, keep: BoolArray, n: int
) -> tuple[Float32Array, Int64Array]:
    """The `n` best rows of `run` where `keep`, from the products with all rows: no row is copied."""
    score = np.empty((len(queries), n), np.float32)
    row = np.empty((len(queries), n), np.int64)
    heaps = faiss.float_minheap_array_t()
    heaps.nh, heaps.k = len(queries), n
    heaps.val, heaps.ids = faiss.swig_ptr(score), faiss.swig_ptr(row)
    heaps.heapify()
    penalty = np.where(keep, np.float32(0), np.float32(-np.inf))
    step = max(256, SCORE_BYTES // (4 * max(1, len(queries))))
    for first in range(0, len(run), step):
        products = queries @ run[first : first + step].T
        products += penalty[first : first + step]
        heaps.addn(products.shape[1], faiss.swig_ptr(products), first)  # type: ignore[call-arg]  # stub lacks defaults
    heaps.reorder()
    return score, row


def plan_blocks(columns: Columns, mask: BoolArray) -> list[Block]:
    """Cut the rows of `mask` into blocks, none longer than BLOCK_ROWS."""
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
    keep_copy = n_gathered * columns.segments[0].vectors.shape[1] * 4 <= CACHE_BYTES
    if keep_copy:
        loose += [b.positions for b in holes]
    else:
        blocks += holes
    joined = np.sort(np.concatenate(loose)) if loose else np.zeros(0, np.int64)
    for first in range(0, len(joined), BLOCK_ROWS):
        block = Block(joined[first : first + BLOCK_ROWS], None)
        blocks.append(Block(block.positions, None, copy=block.load(columns)) if keep_copy else block)
    return blocks
