"""The weights of a fusion chosen from the memory itself: stored samples are left out of their own search.

Both papers state the limit that this lifts: their weights are tuned anew for every data set (arXiv 2404.09447,
2601.12779). The method is ours. A stored row asks the memory without the rows of its own sample (its neighbours in
the same image would make the memory look better than it is), the base says what it said when the row was learned, and
the weights under which the two together name most rows rightly are taken. No validation image is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kc.memory.base import MemoryStore
from kc.memory.vote.background import Background
from kc.memory.vote.evaluation import first_k
from kc.memory.vote.votes import ClassIds, columns_of
from kc.types import Int64Array, Neighbours

KS = (1, 2, 3, 5, 9, 16, 32)
LAMBDAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
THRESHOLDS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.01)
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
MOST_ROWS = 2_000
"""Rows that are asked; of more, an even sample."""


@dataclass(frozen=True)
class Setting:
    """The weights of kNN-CLIP (k, lam, threshold) and of RetCLIP (k, alpha, beta, gamma)."""

    k: int
    lam: float = 0.0
    threshold: float = 0.0
    alpha: float = 0.0
    beta: float = 0.0
    gamma: float = 0.0


@dataclass(frozen=True)
class LeftOut:
    """M stored rows as queries to the rest of the memory.

    `ids` (M,): the rows. `truth` (M,): their classes. `neighbours`: (M, k) rows of other samples; places left empty
    have weight 0. `known` (M, C) bool: whether a row of another sample carries each class asked for.
    """

    ids: Int64Array
    truth: Int64Array
    neighbours: Neighbours
    known: Tensor


def leave_samples_out(
    memory: MemoryStore,
    class_ids: ClassIds,
    k: int,
    seed: int,
    most: int = MOST_ROWS,
    background: Background | None = None,
) -> LeftOut:
    """Up to `most` stored rows of the classes asked for, each with its `k` nearest rows of other samples.

    Rows of weight 0 are neither asked nor found. Which rows are asked is drawn by `seed`. `background`: how rows of the
    background class are taken; the rules that leave rows out of a search are not followed here.
    """
    wanted = np.asarray(class_ids, dtype=np.int64)
    background = background or Background("keep")
    rows = background.labels(memory)
    named = memory.rows_of(rows.id)
    sample = _numbers(zip(named.source, named.sample_id, strict=True))
    live = rows.weight > 0
    asked = np.flatnonzero(live & np.isin(rows.class_id, wanted))
    if len(asked) > most:
        asked = np.sort(np.random.default_rng(seed).choice(asked, most, replace=False))
    ids = rows.id[asked]
    own = int(np.bincount(sample[live])[sample[asked]].max(initial=0))
    found = memory.search(memory.keys(ids), k + own)
    same = sample[np.searchsorted(rows.id, found.id)] == sample[asked][:, None]
    order = np.argsort(same, axis=1, kind="stable")[:, :k]
    found = replace(found, class_id=rows.class_id[np.searchsorted(rows.id, found.id)])
    kept = {name: np.take_along_axis(values, order, axis=1) for name, values in vars(found).items()}
    kept["weight"] = np.where(np.take_along_axis(same, order, axis=1), np.float32(0), kept["weight"])
    column, has = (t.numpy() for t in columns_of(torch.from_numpy(rows.class_id), wanted))
    counts = np.zeros((int(sample.max(initial=-1)) + 1, len(wanted)), np.int64)
    np.add.at(counts, (sample[live & has], column[live & has]), 1)
    known = counts.sum(axis=0)[None] - counts[sample[asked]] > 0
    return LeftOut(ids, rows.class_id[asked], Neighbours(**kept), torch.from_numpy(known))


def _numbers(names: Iterable[tuple[str, ...]]) -> Int64Array:
    """A number for each name, equal for equal names."""
    seen: dict[tuple[str, ...], int] = {}
    return np.array([seen.setdefault(name, len(seen)) for name in names], dtype=np.int64)


def knn_clip_grid() -> list[Setting]:
    """k, lambda and T of kNN-CLIP."""
    return [Setting(k, lam, t) for k in KS for lam in LAMBDAS for t in THRESHOLDS]


def ret_clip_grid(any_seen: bool, any_unseen: bool) -> list[Setting]:
    """k, alpha, beta and gamma of RetCLIP; a weight of names that are not there is not varied."""
    alphas = SHARES if any_seen else SHARES[:1]
    betas = SHARES if any_unseen else SHARES[:1]
    return [Setting(k, alpha=a, beta=b, gamma=g) for k in KS for a in alphas for b in betas for g in SHARES]


Retrieve = Callable[[Neighbours], tuple[Tensor, Tensor]]
"""Neighbours -> (P_ret (Q, C), has_opinion (Q,))."""
Fuse = Callable[[Setting, Tensor, Tensor], Tensor]
"""(setting, P_ret, has_opinion) -> scores (Q, C)."""


def hits(scores: Tensor, truth: Tensor) -> float:
    """Mean of accuracy over rows and of accuracy over classes, in [0, 1]: neither frequent nor rare classes decide
    alone. `truth` (Q,): columns of `scores` (Q, C)."""
    right = (scores.argmax(dim=1) == truth).double()
    total = torch.zeros(scores.shape[1], dtype=torch.float64).index_add_(0, truth, right)
    count = torch.bincount(truth, minlength=scores.shape[1])
    return float((right.mean() + (total[count > 0] / count[count > 0]).mean()) / 2)


def choose(
    left_out: LeftOut, class_ids: ClassIds, grid: Iterable[Setting], retrieve: Retrieve, fuse: Fuse
) -> tuple[Setting, float]:
    """The setting of `grid` (grouped by k) with the most `hits` on the rows left out, and those; of equal ones the
    first. ValueError where no row was left out."""
    if len(left_out.ids) == 0:
        raise ValueError("no stored row is left to calibrate on")
    truth, _ = columns_of(torch.from_numpy(left_out.truth), class_ids)
    best: tuple[Setting, float] | None = None
    k, opinion = -1, (torch.empty(0), torch.empty(0))
    for setting in grid:
        if setting.k != k:
            k, opinion = setting.k, retrieve(first_k(left_out.neighbours, setting.k))
        value = hits(fuse(setting, *opinion), truth)
        if best is None or value > best[1]:
            best = (setting, value)
    assert best is not None
    return best
