"""The weights of a fusion chosen from the memory itself: stored samples are left out of their own search.

Both papers state the limit that this lifts: their weights are tuned anew for every data set (arXiv 2404.09447,
2601.12779). The method is ours. A stored row is a query to the memory without the rows of its own image, whose
neighbours would make the memory look better than it is; the base says what it said when the row was learned, and the
weights are taken under which the two together name most rows rightly. No validation image is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
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
MOST_VALUES = 5_000_000
"""Rows times classes that calibration reads: all rows where that takes under a minute, else an even sample."""
DRAWS = 200
"""Draws of images for a standard error."""


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
    return float(_hits((scores.argmax(dim=1) == truth)[None], truth, torch.ones(1, len(truth)))[0, 0])


def _hits(right: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """(B, S) `hits` of settings that are right on rows (S, Q), for each weighting of the rows (B, Q)."""
    right, weight = right.double(), weight.double()
    total, parts, counts = weight.sum(1, keepdim=True), [], []
    for c in set(truth.tolist()):
        own = truth == c
        count = weight[:, own].sum(1, keepdim=True)
        parts.append(torch.where(count > 0, weight[:, own] @ right[:, own].T / count.clamp_min(1), 0.0))
        counts.append(count > 0)
    by_class = torch.stack(parts).sum(0) / torch.stack(counts).sum(0)
    return (weight @ right.T / total + by_class) / 2


def choose(
    left_out: LeftOut,
    class_ids: ClassIds,
    grid: Iterable[Setting],
    retrieve: Retrieve,
    fuse: Fuse,
    default: Setting,
    seed: int = 0,
) -> tuple[Setting, float]:
    """The setting of `grid` (grouped by k) nearest to `default` whose `hits` on the rows left out are within one
    standard error of the most, and its hits. ValueError where no row was left out.

    The standard error is that of the difference, by a bootstrap over images. What the best setting is ahead by less
    than that is chance, and far settings do worse on new images.
    """
    if len(left_out.ids) == 0:
        raise ValueError("no stored row is left to calibrate on")
    truth, _ = columns_of(torch.from_numpy(left_out.truth), class_ids)
    settings, answers = list(grid), []
    k, opinion = -1, (torch.empty(0), torch.empty(0))
    for setting in settings:
        if setting.k != k:
            k, opinion = setting.k, retrieve(first_k(left_out.neighbours, setting.k))
        answers.append(fuse(setting, *opinion).argmax(dim=1) == truth)
    right = torch.stack(answers)
    value = _hits(right, truth, torch.ones(1, len(truth)))[0]
    best = int(value.argmax())
    images, sample = np.unique(left_out.sample, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(images), np.full(len(images), 1 / len(images)), DRAWS)
    each = _hits(right, truth, torch.from_numpy(drawn[:, sample]))
    error = (each[:, [best]] - each).std(dim=0)
    near = [i for i in range(len(settings)) if value[best] - value[i] <= error[i]]
    chosen = min(near, key=lambda i: (distance(settings[i], default), -float(value[i]), i))
    return settings[chosen], float(value[chosen])


def distance(a: Setting, b: Setting) -> float:
    """Sum of differences of the weights, and of the logarithm of k as a part of the grid's."""
    names = ("lam", "threshold", "alpha", "beta", "gamma")
    weights = sum(abs(float(getattr(a, n)) - float(getattr(b, n))) for n in names)
    return abs(math.log(a.k / b.k)) / math.log(max(KS)) + weights
