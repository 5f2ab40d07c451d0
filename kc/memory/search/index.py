"""Approximate search: an index proposes rows, float64 decides; what it cannot answer safely is searched exactly.

An index is trained on a random sample of the rows and filled segment by segment. Its numbers are positions among the
stored rows, so it holds for one list of segments and for every longer one that begins with it. The probe measures it
against exact search on stored rows and sets how many lists it visits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kc.memory.search.blocks import Float64Array, gather
from kc.memory.search.exact import OVERFETCH, Search, top_k
from kc.memory.search.threads import faiss
from kc.memory.store.manifest import VECTORS
from kc.memory.store.view import Columns, View
from kc.types import BoolArray, Float32Array, Int64Array

LEAST_DIM = 64
"""Product codes need that many values."""


def projected_dim(dim: int) -> int:
    """Values of a key that product codes keep: a third, but at least `LEAST_DIM`; a multiple of 8."""
    return min(dim // 8 * 8, max(LEAST_DIM, round(dim / 3 / 8) * 8))


def factory(kind: str, n_rows: int, dim: int) -> str:
    """The FAISS factory string of the index proper: about 2 sqrt(n) lists; 4 bits for each projected value, or 8 bits
    for each value."""
    lists = 1 << max(0, round(math.log2(2 * math.sqrt(n_rows))))
    codes = {"ivf-pq": f"IVF{lists},PQ{projected_dim(dim)}x4fs", "ivf-sq8": f"IVF{lists},SQ8", "hnsw": "HNSW32,SQ8"}
    return codes[kind]


_faiss: Any = faiss
"""Its type stubs lack the keyword arguments that its Python classes take."""
TRAIN_BYTES = 512 * 2**20
"""The sample that an index is trained on is kept in RAM; it takes at most this."""
ROWS_A_LIST = 50
"""Rows of the sample for each inverted list (39 is the least that FAISS finds sound)."""
ADD_ROWS = 16_384
FIRST_EFFORT = 8
REFINE = {"ivf-pq": 15, "ivf-sq8": 2, "hnsw": 2}
"""Rows that are scored exactly, as a multiple of k: coarser codes need more."""
MORE_ROWS = 512
"""Rows beyond k that are scored exactly at most."""


@dataclass(frozen=True)
class Index:
    """`faiss_index` holds the rows of the segments in `segments` (see `segment_keys`), by position.

    `effort`: inverted lists visited, or candidates kept by a graph. `recall`: share of the true 16 nearest rows found
    at that effort on sampled stored queries, each without itself. `trained_rows`: rows there were at training.
    """

    kind: str
    faiss_index: Any
    segments: tuple[str, ...]
    trained_rows: int
    effort: int = FIRST_EFFORT
    recall: float = float("nan")

    def __len__(self) -> int:
        return int(self.faiss_index.ntotal)

    @property
    def max_effort(self) -> int:
        """Beyond this, exact search is the better choice."""
        return 1024 if self.kind == "hnsw" else min(self._inner.nlist, max(32, self._inner.nlist // 4))

    @property
    def _inner(self) -> Any:
        inner = self.faiss_index
        return faiss.downcast_index(inner.index) if isinstance(inner, faiss.IndexPreTransform) else inner

    @property
    def exhausted(self) -> bool:
        """Whether it is trained on all rows and its effort is at the limit."""
        return self.trained_rows == len(self) and next_effort(self.effort) > self.max_effort

    def propose(self, queries: Float32Array, k: int, mask: BoolArray | None) -> tuple[Float32Array, Int64Array]:
        """Scores and positions (Q, n) of likely neighbours, n >= k; -1 where fewer were found.

        mask: (rows,) which rows may be proposed; None = all.
        """
        n = min(len(self), k + min(MORE_ROWS, (REFINE[self.kind] - 1) * k))
        effort = self.effort
        selector = None
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(bits))
            # Where a filter hides most of a list, the same number of candidates takes more lists.
            effort = min(self.max_effort, round(effort * min(8.0, len(mask) / max(1, int(mask.sum())))))
        if self.kind == "hnsw":
            params: Any = _faiss.SearchParametersHNSW(efSearch=max(n, effort), sel=selector)
        else:
            params = _faiss.SearchParametersIVF(nprobe=effort, sel=selector)
        if isinstance(self.faiss_index, faiss.IndexPreTransform):
            params = _faiss.SearchParametersPreTransform(index_params=params)
        score, position = self.faiss_index.search(queries, n, params=params)
        return score, position


def next_effort(effort: int) -> int:
    """The next higher effort."""
    return -(-3 * effort // 2)


def segment_keys(columns: Columns) -> tuple[str, ...]:
    """What identifies the vectors of each segment, in order: name and checksum of its vectors."""
    return tuple(f"{s.info.name}:{s.info.files[VECTORS][1]}" for s in columns.segments)


def build(columns: Columns, kind: str, seed: int) -> Index:
    """A new index of all rows, trained on a seeded random sample of them. RAM: the sample and the codes."""
    n_rows, dim = len(columns), columns.segments[0].vectors.shape[1]
    kept = projected_dim(dim) if kind == "ivf-pq" else dim
    inner: Any = faiss.index_factory(kept, factory(kind, n_rows, dim), faiss.METRIC_INNER_PRODUCT)
    wanted = 2**17
    if kind != "hnsw":
        wanted = ROWS_A_LIST * inner.nlist
        inner.cp.seed = seed + 1
        inner.cp.min_points_per_centroid = 1
    if kind == "ivf-pq":
        inner.pq.cp.seed = seed + 1
        inner.pq.cp.min_points_per_centroid = 1
    wanted = max(1, min(n_rows, wanted, TRAIN_BYTES // (4 * dim)))
    # A sample of all rows, never the first ones: trained on the first task's classes, recall falls from .995 to .908.
    chosen = np.sort(np.random.default_rng(seed).choice(n_rows, wanted, replace=False))
    sample = np.empty((wanted, dim), np.float32)
    gather(columns, chosen, sample)
    whole = faiss.IndexPreTransform(_projection(sample, kept, seed), inner) if kept < dim else inner
    whole.train(sample)
    del sample
    return extend(Index(kind, whole, (), n_rows), columns)


def _projection(sample: Float32Array, kept: int, seed: int) -> Any:
    """The `kept` directions that hold most of the inner products of `sample`, turned at random so that each value
    carries as much. Features have spectra that fall: a third of the directions keeps nine tenths, and codes of four
    bits for these find more than codes of the same size for all."""
    moment = np.zeros((sample.shape[1], sample.shape[1]))
    for first in range(0, len(sample), ADD_ROWS):
        part = sample[first : first + ADD_ROWS]
        moment += part.T @ part
    directions = np.linalg.eigh(moment)[1][:, ::-1][:, :kept]
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((kept, kept)))[0]
    transform = faiss.LinearTransform(sample.shape[1], kept, False)
    faiss.copy_array_to_vector((turn @ directions.T).astype(np.float32).ravel(), transform.A)
    transform.is_trained = True
    return transform


def extend(index: Index, columns: Columns) -> Index:
    """`index` with the rows of the segments it lacks, added in place; its training stays."""
    for segment in columns.segments[len(index.segments) :]:
        for first in range(0, len(segment), ADD_ROWS):
            index.faiss_index.add(np.ascontiguousarray(segment.vectors[first : first + ADD_ROWS]))
    return replace(index, segments=segment_keys(columns))


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
        wanted = k + OVERFETCH + (exclude is not None)
        _, position = self.index.propose(fast, wanted, self._shown)
        rough = inner_products(self.columns, fast, position)
        if exclude is not None:
            rough[position == exclude[:, None]] = -np.inf
        proposed, scored = self._candidates(position, rough, k, fast.shape[1])
        lost = np.isneginf(scored)
        score = self._score(exact, np.where(lost, 0, proposed))
        score[lost] = -np.inf
        chosen, values = top_k(proposed, score, k)
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
