"""Search by an index: it proposes, float64 decides; what it cannot answer safely is searched exactly.

The probe measures an index against exact search on stored rows and sets how hard it looks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kc.memory.blas import faiss
from kc.memory.blocks import Float64Array
from kc.memory.index import FIRST_EFFORT, Index, next_effort
from kc.memory.search import SPARE, Search, best
from kc.memory.view import Columns, View
from kc.types import BoolArray, Float32Array, Int64Array

PROBES = 200
PROBE_K = 16
EDGE = 8
"""Rows at the end of a list that tell whether it ended too early."""
NEAR = 1e-4
"""Cosines that codes cannot tell apart."""


class ApproximateSearch(Search):
    """The rows of `mask` in `view`, by `index`. Same calls and answers as exact search, but for rows it misses."""

    def __init__(self, view: View, mask: BoolArray, index: Index) -> None:
        super().__init__(view, mask)
        self.index = index
        self._shown = None if mask.all() else mask

    def _nearest(
        self, fast: Float32Array, exact: Float64Array, k: int, exclude: Int64Array | None
    ) -> tuple[Int64Array, Float64Array]:
        wanted = k + SPARE + (exclude is not None)
        _, position = self.index.propose(fast, wanted, self._shown)
        rough = inner_products(self.columns, fast, position)
        if exclude is not None:
            rough[position == exclude[:, None]] = -np.inf
        proposed, scored = self._hopeful(position, rough, k, fast.shape[1])
        lost = np.isneginf(scored)
        score = self._score(exact, np.where(lost, 0, proposed))
        score[lost] = -np.inf
        chosen, values = best(proposed, score, k)
        # Too few rows in the lists visited; or a scene of near duplicates that fills the list and may go on behind it.
        reach = rough[:, -EDGE:] >= values[:, -1:] - NEAR
        dense = (2 * reach.sum(axis=1) >= EDGE) & (position.shape[1] < self.n_rows)
        unsure = np.flatnonzero(np.isneginf(values).any(axis=1) | dense)
        if len(unsure):
            out = None if exclude is None else exclude[unsure]
            chosen[unsure], values[unsure] = super()._nearest(fast[unsure], exact[unsure], k, out)
        return chosen, values


def inner_products(columns: Columns, queries: Float32Array, positions: Int64Array) -> Float32Array:
    """Float32 products (Q, n) of queries (Q, D) with their own rows at `positions` (Q, n), read where they are mapped,
    by all threads; -inf where a position is below 0."""
    n_queries, n = positions.shape
    score = np.full((n_queries, n), -np.inf, np.float32)
    found = np.empty_like(score)
    number = np.searchsorted(columns.offsets, positions, side="right") - 1
    for i in np.unique(number[positions >= 0]):
        here = number == i
        rows = np.where(here, positions - columns.offsets[i], -1)
        faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]  # its stubs lack it
            faiss.swig_ptr(found),
            faiss.swig_ptr(queries),
            faiss.swig_ptr(columns.segments[i].vectors),
            faiss.swig_ptr(rows),
            queries.shape[1],
            n_queries,
            n,
        )
        np.copyto(score, found, where=here)
    return score


def probe(view: View, mask: BoolArray, index: Index, target: float, seed: int, tune: bool) -> Index:
    """`index` with its recall measured on sampled rows of `mask`, each without itself.

    tune: raise the effort until the recall reaches `target` or the effort its limit.
    """
    rows = np.flatnonzero(mask)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(rows, min(PROBES, len(rows)), replace=False))
    keys, ids = view.columns.vectors(chosen), view.columns.ids[chosen]
    dim = keys.shape[1]
    truth = Search(view, mask)(keys, PROBE_K, dim, ids).id

    def measured(effort: int) -> Index:
        tried = replace(index, effort=effort)
        found = ApproximateSearch(view, mask, tried)(keys, PROBE_K, dim, ids).id
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True))
        return replace(tried, recall=hits / truth.size)

    if not tune:
        return measured(index.effort)
    tried = measured(FIRST_EFFORT)
    too_little = tried.effort
    while tried.recall < target and next_effort(tried.effort) <= index.max_effort:
        too_little = tried.effort
        tried = measured(next_effort(too_little))
    if tried.effort == too_little or tried.recall < target:
        return tried
    less = measured((too_little + tried.effort) // 2)  # a step is wide: half of it is a sixth of the time
    return less if less.recall >= target else tried
