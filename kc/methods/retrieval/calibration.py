"""The weights of a fusion chosen from the memory itself: stored samples are left out of their own search.

Both papers state the limit that this lifts: their weights are tuned anew for every data set (arXiv 2404.09447,
2601.12779). The method is ours. A stored row is a query to the memory without the rows of its own image, whose
neighbours would make the memory look better than it is; the base says what it said when the row was learned, and the
weights are taken under which the two together name most rows rightly. No validation image is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kc.memory.vote.evaluation import first_k
from kc.memory.vote.left_out import LeftOut
from kc.memory.vote.votes import ClassIds, columns_of
from kc.types import Neighbours

KS = (1, 2, 3, 5, 9, 16, 32)
LAMBDAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
THRESHOLDS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.01)
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True)
class Setting:
    """The weights of kNN-CLIP (k, lam, threshold), of RetCLIP (k, alpha, beta, gamma) or, where there are `weights`, of
    the log-linear rule (k, shrink, weights)."""

    k: int
    lam: float = 0.0
    threshold: float = 0.0
    alpha: float = 0.0
    beta: float = 0.0
    gamma: float = 0.0
    shrink: float = 0.0
    weights: tuple[float, ...] = ()


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
