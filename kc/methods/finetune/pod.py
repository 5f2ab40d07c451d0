"""Local POD: distillation of strip averages at several scales (Douillard et al. 2021, PLOP, arXiv 2011.11390).

The paper pools features as they are; the public code squares them first (`--pod_prepro pow`, its default). Both are
here: `squared`. The code cuts cells by the width alone and drops a remainder; here cells cover the whole map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SCALES = (1, 2, 4)


def strips(x: Tensor, scales: Sequence[int] = SCALES) -> Tensor:
    """Row and column means of every cell of every scale.

    Args:
        x: (N, C, h, w).
        scales: cells a side; no more than the map has rows or columns are made.

    Returns:
        (N, D): of each cell the means over its columns, one a row, and over its rows, one a column.
    """
    parts: list[Tensor] = []
    for n in scales:
        for band in x.tensor_split(min(n, x.shape[2]), dim=2):
            for cell in band.tensor_split(min(n, x.shape[3]), dim=3):
                parts += [cell.mean(3).flatten(1), cell.mean(2).flatten(1)]
    return torch.cat(parts, dim=1)


def local_pod(new: Tensor, old: Tensor, scales: Sequence[int] = SCALES, *, squared: bool = False) -> Tensor:
    """Mean over images of the Euclidean distance between the strips of two maps (N, C, h, w).

    `squared`: square the maps before they are pooled, as the authors' code does.
    """
    if squared:
        new, old = new.square(), old.square()
    # Pooling is linear: the difference is pooled once instead of both maps.
    distance: Tensor = torch.linalg.vector_norm(strips(new - old, scales), dim=1)
    return distance.mean()


def fold_new(logits: Tensor, n_old: int) -> Tensor:
    """(N, |O|, h, w): logits (N, C, h, w) with those of the new classes added to the background's, column 0."""
    background = logits[:, :1] + logits[:, n_old:].sum(1, keepdim=True)
    return torch.cat([background, logits[:, 1:n_old]], dim=1)


def pod_loss(
    new: Sequence[Tensor],
    old: Sequence[Tensor],
    logits: Tensor,
    old_logits: Tensor,
    *,
    feature_weight: float,
    logit_weight: float,
    squared: bool = False,
) -> Tensor:
    """Mean over layers of the weighted local POD, times sqrt(C_all / C_new).

    Args:
        new: L - 1 feature maps of the model that learns, each (N, C_l, h_l, w_l).
        old: those of the old model.
        logits: (N, C_all, h, w), the last layer; new classes are added to the background.
        old_logits: (N, C_all - C_new, h, w) of the old model.
        feature_weight: factor of the feature maps.
        logit_weight: factor of the logits.
        squared: see `local_pod`.
    """
    n_all, n_old = logits.shape[1], old_logits.shape[1]
    total = logit_weight * local_pod(fold_new(logits, n_old), old_logits, squared=squared)
    for a, b in zip(new, old, strict=True):
        total = total + feature_weight * local_pod(a, b, squared=squared)
    return total * math.sqrt(n_all / (n_all - n_old)) / (len(new) + 1)
