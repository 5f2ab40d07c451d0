"""Exact nearest neighbours by cosine over mapped rows: FAISS makes a short list, float64 decides.

Float32 inner products cannot tell a row from a near duplicate (two video frames 3e-4 apart differ by 4.5e-8 in cosine,
less than one float32 step). So FAISS only proposes k + 8 rows a query: those that float32 cannot rule out are scored
again in float64, and where its rounding error could still hide a better row behind the end of the short list, every row
within that error is scored. The answer is therefore the same for any batch size, block size and number of threads.
"""

from __future__ import annotations

import itertools
from functools import cached_property

import numpy as np

from kc.budget import SEARCHES, cache_bytes
from kc.errors import EmptyMemoryError
from kc.memory.search.blocks import READ_COST, Block, Float64Array, gather, merge_lists, plan_blocks, split_blocks
from kc.memory.search.threads import faiss, parallel_for, run_in_threads
from kc.memory.store.inputs import as_ids
from kc.memory.store.staging import UNIT_ROUNDING
from kc.memory.store.view import View
from kc.process import blas_from
from kc.types import BoolArray, Float32Array, Int64Array, Neighbours

OVERFETCH = 8
"""Rows of the short list beyond k."""
QUERY_BLOCK = 4_096
MIN_THREAD_WORK = 32_768
"""Products of rows and queries; with fewer a thread costs more than it saves. Reading a row counts as some, too."""
MIN_THREAD_SCORES = 4_096
"""Keys that a thread scores in float64 at least."""
SCORED_BYTES = 4 * 2**20
"""Float64 keys that are scored at once: they stay in the CPU's cache."""


def float32_margin(dim: int) -> float:
    """How far a float32 inner product may be from the cosine, several times what sums of `dim` terms really show.

    Rows are stored with a length of 1 within `UNIT_ROUNDING`; that counts too.
    """
    return float(UNIT_ROUNDING + 2.0**-24 * (8 + 3 * np.sqrt(dim)))


def check_queries(queries: object, dim: int) -> tuple[Float32Array, Float64Array]:
    """Queries as (Q, D) unit vectors in float32 (for the short list) and float64 (for the decision).

    A zero query stays zero: its cosine with everything is 0. ValueError for a wrong shape or a value not finite.
    """
    exact = np.asarray(queries, dtype=np.float64)
    if exact.ndim != 2 or exact.shape[1] != dim:
        raise ValueError(f"queries must be (Q, {dim}), got {exact.shape}")
    if not np.isfinite(exact).all():
        raise ValueError("queries hold values that are not finite")
    largest = np.abs(exact).max(axis=1, initial=0, keepdims=True)
    far = ((largest > 0) & ((largest < 1e-140) | (largest > 1e140)))[:, 0]  # whose squares are 0 or infinite
    if far.any():
        exact = np.where(far[:, None], exact / np.where(largest > 0, largest, 1), exact)
    norm = np.sqrt(np.einsum("qd,qd->q", exact, exact))[:, None]
    exact = exact / np.where(norm > 0, norm, 1.0)
    return np.ascontiguousarray(exact, np.float32), exact


class Search:
    """Exact search over the rows of `mask` in `view`; keeps what it gathered for the next batch."""

    def __init__(self, view: View, mask: BoolArray) -> None:
        self.view = view
        self.columns = view.columns
        self.mask = mask
        self.n_rows = int(mask.sum())
        self.room = cache_bytes(SEARCHES)
        """Bytes of gathered rows that may be kept for the next batch."""
        self._of_threads: dict[int, list[list[Block]]] = {}

    @cached_property
    def blocks(self) -> list[Block]:
        """The rows, cut for exact search; gathered when the first exact answer is needed."""
        return plan_blocks(self.columns, self.mask, self.room)

    @property
    def kept_bytes(self) -> int:
        """Of the gathered rows."""
        return sum(b.copy.nbytes for b in self.__dict__.get("blocks", ()) if b.copy is not None)

    def _shares(self, n_queries: int) -> list[list[Block]]:
        """The blocks of each thread."""
        work = int(self.n_rows * max(READ_COST, n_queries))
        threads = max(1, min(faiss.omp_get_max_threads(), work // MIN_THREAD_WORK))
        if threads not in self._of_threads:
            self._of_threads[threads] = split_blocks(self.blocks, threads)
        return self._of_threads[threads]

    def __call__(self, queries: object, k: int, dim: int, exclude_ids: object = None) -> Neighbours:
        """The `k` nearest rows of each query (Q, D); see `Memory.search`."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        fast, exact = check_queries(queries, dim)
        exclude = self._excluded(exclude_ids, len(fast))
        n_rows = self.n_rows - int(exclude is not None and bool((exclude >= 0).any()))
        if n_rows < 1:
            raise EmptyMemoryError("no row of the memory is visible to this search: add rows or widen the filter")
        k = min(k, n_rows)
        position = np.empty((len(fast), k), np.int64)
        score = np.empty((len(fast), k), np.float64)
        for first in range(0, len(fast), QUERY_BLOCK):
            part = slice(first, first + QUERY_BLOCK)
            out = exclude[part] if exclude is not None else None
            position[part], score[part] = self._nearest(fast[part], exact[part], k, out)
        return Neighbours(
            id=self.columns.ids[position],
            score=score.clip(-1.0, 1.0).astype(np.float32),
            class_id=self.view.class_id[position],
            weight=self.view.weight[position],
            task=self.columns.task[position],
        )

    def _excluded(self, exclude_ids: object, n_queries: int) -> Int64Array | None:
        """(Q,) position of the row that each query must not find, -1 where there is none."""
        if exclude_ids is None:
            return None
        ids = as_ids(np.asarray(exclude_ids), "exclude_ids")
        if ids.shape != (n_queries,):
            raise ValueError(f"exclude_ids must be ({n_queries},), one id a query, got {ids.shape}")
        position, known = self.columns.positions(ids)
        if len(self.mask):
            known &= self.mask[position]
        return np.where(known, position, -1)

    def _nearest(
        self, fast: Float32Array, exact: Float64Array, k: int, exclude: Int64Array | None
    ) -> tuple[Int64Array, Float64Array]:
        """Positions (Q, k) and float64 cosines (Q, k), best first."""
        wanted = self._list_length(k) + (exclude is not None)
        position, score, unsure = self._rescored(fast, exact, k, wanted, exclude)
        if len(unsure):
            # Dense neighbourhoods: one more product with a longer list for the few queries concerned ...
            out = None if exclude is None else exclude[unsure]
            longer = self._rescored(fast[unsure], exact[unsure], k, 4 * wanted, out)
            position[unsure], score[unsure] = longer[0], longer[1]
            unsure = unsure[longer[2]]
        for q in unsure:  # ... and for the clusters of near duplicates that even this cannot hold, all of them.
            skip = -1 if exclude is None else int(exclude[q])
            position[q], score[q] = self._range_search(
                fast[q], exact[q], score[q, -1] - float32_margin(fast.shape[1]), k, skip
            )
        return position, score

    def _list_length(self, k: int) -> int:
        return k + OVERFETCH

    def _margin(self, dim: int) -> float:
        """How far a score of the short list may be from the cosine."""
        return float32_margin(dim)

    def _rescored(
        self, fast: Float32Array, exact: Float64Array, k: int, wanted: int, exclude: Int64Array | None
    ) -> tuple[Int64Array, Float64Array, Int64Array]:
        """Best k of a short list of `wanted` rows, cosines, and the queries whose list may be too short."""
        wanted = min(self.n_rows, wanted)
        position, rough = self._short_list(fast, wanted)
        position, _ = self._candidates(position, rough, k + (exclude is not None), fast.shape[1])
        score = self._score(exact, position)
        if exclude is not None:
            score[position == exclude[:, None]] = -np.inf
        position, score = top_k(position, score, k)
        # A row that is not on the list has a rough score of at most the list's worst.
        hidden = rough.min(axis=1) >= score[:, -1] - self._margin(fast.shape[1])
        return position, score, np.flatnonzero(hidden & (wanted < self.n_rows))

    def _candidates(
        self, position: Int64Array, rough: Float32Array, k: int, dim: int
    ) -> tuple[Int64Array, Float32Array]:
        """Those of a list (Q, n) of positions and scores that may be among the best k, whatever float32 lost."""
        n = position.shape[1]
        if n <= k:
            return position, rough
        lowest = np.partition(rough, n - k, axis=1)[:, n - k] - 2 * self._margin(dim)
        n_kept = int((rough >= lowest[:, None]).sum(axis=1).max())
        keep = np.argpartition(-rough, min(n_kept, n - 1), axis=1)[:, :n_kept]
        return np.take_along_axis(position, keep, 1), np.take_along_axis(rough, keep, 1)

    def _short_list(self, fast: Float32Array, wanted: int) -> tuple[Int64Array, Float32Array]:
        """Positions (Q, wanted) and float32 scores of the best rows by float32 inner product, in no special order."""
        shares = self._shares(len(fast))

        def search(blocks: list[Block]) -> list[tuple[Float32Array, Int64Array]]:
            scratch: list[Float32Array] = []
            return [block.nearest(self.columns, fast, wanted, scratch) for block in blocks]

        # Threads that never wait for each other: a fifth faster than FAISS's own, which share out every 2048 rows, and
        # one query by all cores, which FAISS answers by one.
        with blas_from(faiss, 4 * fast.shape[1]):
            found = list(itertools.chain.from_iterable(run_in_threads(search, shares)))
        score, position = merge_lists([f[0] for f in found], [f[1] for f in found], wanted)
        return position, score

    def _score(self, exact: Float64Array, position: Int64Array) -> Float64Array:
        """Float64 cosines (Q, n) of queries (Q, D) with their own rows at `position` (Q, n)."""
        n, dim = position.shape[1], exact.shape[1]
        score = np.empty(position.shape, np.float64)
        step = max(1, SCORED_BYTES // max(1, 8 * n * dim))

        def some(queries: slice) -> None:
            rows = np.empty((min(step, queries.stop - queries.start) * n, dim), np.float64)
            for first in range(queries.start, queries.stop, step):
                part = slice(first, min(first + step, queries.stop))
                wanted = position[part].reshape(-1)
                gather(self.columns, wanted, rows[: len(wanted)])
                score[part] = cosines(rows[: len(wanted)].reshape(-1, n, dim), exact[part])

        parallel_for(some, len(exact), max(1, MIN_THREAD_SCORES // max(1, n)))
        return score

    def _range_search(
        self, fast: Float32Array, exact: Float64Array, lowest: float, k: int, exclude: int
    ) -> tuple[Int64Array, Float64Array]:
        """The best k rows of one query among all whose float32 score reaches `lowest`."""
        position = np.zeros(0, np.int64)
        score = np.zeros(0, np.float64)
        for block in self.blocks:
            found = block.positions[np.flatnonzero(block.load(self.columns) @ fast >= lowest)]
            found = found[found != exclude]
            position = np.concatenate([position, found])
            score = np.concatenate([score, self._score(exact[None], found[None])[0]])
            first, values = top_k(position[None], score[None], min(k, len(position)))
            position, score = first[0], values[0]
        return position, score


def cosines(keys: Float64Array, exact: Float64Array) -> Float64Array:
    """(Q, n) cosines of queries (Q, D) of length 1 with their own keys (Q, n, D)."""
    # vecdot sums every row in one fixed order, so equal rows get bitwise equal scores and ids break the tie.
    score: Float64Array = np.vecdot(keys, exact[:, None]) / np.sqrt(np.vecdot(keys, keys))
    return score


def ranking(ids: Int64Array, score: Float64Array, k: int) -> Int64Array:
    """(Q, k) columns of the k best of each line, by score then by lowest id."""
    order: Int64Array = np.argsort(-score, axis=1)
    ranked = np.take_along_axis(score, order, 1)
    tied = np.flatnonzero((ranked[:, 1:] == ranked[:, :-1]).any(axis=1))
    if len(tied):  # sorting by both takes three times as long
        order[tied] = np.lexsort((ids[tied], -score[tied]), axis=-1)
    return order[:, :k]


def top_k(position: Int64Array, score: Float64Array, k: int) -> tuple[Int64Array, Float64Array]:
    """The k best of each line, by score then by lowest position (positions ascend with ids)."""
    order = ranking(position, score, k)
    return np.take_along_axis(position, order, 1), np.take_along_axis(score, order, 1)
