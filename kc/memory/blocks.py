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
"""Scores that a product holds at once."""
SERIAL = 100_000
"""FAISS takes in more scores than this at once in several threads, which wait for those of numpy's BLAS, still spinning
after the product: several times slower than one."""
PRODUCT_BYTES = 2**26
"""One query with keys of at least so many bytes is a product in numpy, which reads them with all cores; FAISS uses one
core."""
SPARE_ROWS = 4096
SPARE_HIDDEN = 128
"""Rows that a search may find in vain, and the rows among which it may: then none is copied and none is masked."""
# Costs of handling one row, in units of the product of one row with one query inside a large batch (768-d, one core).
READ_COST = 7.0
COPY_COST = 30.0
LONE_COST = 6.5
MASK_COST = 1.2
LONE_MASK_COST = 0.6
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
    if out.dtype == np.float32 and len(positions) > SCRATCH_ROWS and bool((positions[1:] > positions[:-1]).all()):
        bounds = np.searchsorted(positions, columns.offsets)
        for i in np.flatnonzero(np.diff(bounds)):
            part = slice(bounds[i], bounds[i + 1])
            np.take(
                columns.segments[i].vectors, positions[part] - columns.offsets[i], axis=0, out=out[part], mode="clip"
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
        if self.copy is not None or self.run is None:
            return self._listed(queries, self.load(columns, scratch), n)
        if self.keep is None:
            return self._listed(queries, self.run, n)
        plan = cheapest(len(queries), len(self.positions) / len(self.run), most_hidden(self.keep))
        if plan == "copy":
            return self._listed(queries, self.load(columns, scratch), n)
        if plan == "lone":
            score, row = lone_products(queries, self.run, self.keep, n)
        elif plan == "spare":
            score, row = spare_products(queries, self.run, self.keep, n)
        else:
            score, row = products(queries, self.run, self.keep, n)
        return score, self.positions[0] + row

    def _listed(self, queries: Float32Array, keys: Float32Array, n: int) -> tuple[Float32Array, Int64Array]:
        score, row = listed(queries, keys, n)
        return score, self.positions[row]

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


def cheapest(n_queries: int, fraction: float, hidden: int) -> str:
    """How to search `fraction` of the rows of a mapped run, of which at most `hidden` in SPARE_ROWS are not meant:
    "copy" them and multiply, multiply all and "mask", ask for as many "spare" rows as are hidden, or take each product
    of one query and one row "lone"."""
    whole = max(READ_COST, n_queries) + READ_COST * (n_queries > 1)
    costs = {
        "mask": whole * (LONE_MASK_COST if n_queries == 1 else MASK_COST),
        "copy": fraction * (COPY_COST + whole),
        "lone": fraction * max(READ_COST, LONE_COST * n_queries),
    }
    if n_queries > 1 and hidden <= SPARE_HIDDEN:
        costs["spare"] = whole
    return min(costs, key=lambda plan: costs[plan])


def most_hidden(keep: BoolArray) -> int:
    """The most False in any SPARE_ROWS rows that are asked together."""
    return int(np.add.reduceat(~keep, np.arange(0, len(keep), SPARE_ROWS), dtype=np.int64).max())


def listed(queries: Float32Array, keys: Float32Array, n: int) -> tuple[Float32Array, Int64Array]:
    """Scores and numbers (Q, n) of the `n` best rows of `keys`, in no special order."""
    if len(queries) == 1 and keys.nbytes >= PRODUCT_BYTES and faiss.omp_get_max_threads() > 1:
        return products(queries, keys, None, n)
    found: tuple[Float32Array, Int64Array] = faiss.knn(queries, keys, n, metric=faiss.METRIC_INNER_PRODUCT)
    return found


def spare_products(
    queries: Float32Array, run: Float32Array, keep: BoolArray, n: int
) -> tuple[Float32Array, Int64Array]:
    """The `n` best rows of `run` where `keep`: of every SPARE_ROWS rows, as many more as are hidden there."""
    scores, rows = [], []
    for first in range(0, len(run), SPARE_ROWS):
        kept = keep[first : first + SPARE_ROWS]
        wanted = min(len(kept), n + len(kept) - int(kept.sum()))
        score, row = listed(queries, run[first : first + SPARE_ROWS], wanted)
        score[~kept[row]] = -np.inf
        scores.append(score)
        rows.append(row + first)
    score, row = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
    best = np.argpartition(-score, n - 1, axis=1)[:, :n]
    return np.take_along_axis(score, best, 1), np.take_along_axis(row, best, 1)


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


def products(
    queries: Float32Array, run: Float32Array, keep: BoolArray | None, n: int
) -> tuple[Float32Array, Int64Array]:
    """The `n` best rows of `run` (where `keep`, if given), from the products with all rows: no row is copied."""
    n_queries = len(queries)
    score = np.empty((n_queries, n), np.float32)
    row = np.empty((n_queries, n), np.int64)
    heaps = faiss.float_minheap_array_t()
    heaps.nh, heaps.k = n_queries, n
    heaps.val, heaps.ids = faiss.swig_ptr(score), faiss.swig_ptr(row)
    heaps.heapify()
    penalty = None if keep is None else np.where(keep, np.float32(0), np.float32(-np.inf))
    step = min(SERIAL, max(256, SCORE_BYTES // (4 * n_queries)))
    together = max(1, SERIAL // step)
    found = np.empty((n_queries, min(step, len(run))), np.float32)
    for first in range(0, len(run), step):
        part = run[first : first + step]
        if len(part) < found.shape[1]:
            found = np.empty((n_queries, len(part)), np.float32)
        np.matmul(queries, part.T, out=found)
        if penalty is not None:
            found += penalty[first : first + step]
        for q in range(0, n_queries, together):
            some = found[q : q + together]
            heaps.addn(some.shape[1], faiss.swig_ptr(some), first, q, len(some))  # type: ignore[call-arg]  # stub lacks them
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
