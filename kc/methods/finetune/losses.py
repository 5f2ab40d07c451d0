"""Losses as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from kc.types import HIDDEN, VOID

IGNORED = -100
"""Column of what is not trained on: torch's default `ignore_index`."""


def to_columns(target: Tensor, class_ids: Sequence[int]) -> Tensor:
    """Class ids -> column numbers of a head.

    Args:
        target: any shape, int64 class ids (VOID and HIDDEN for what has no class).
        class_ids: class of each column.

    Returns:
        Same shape, int64 columns; every id without a column becomes IGNORED, which the losses ignore.
    """
    table = _column_table(tuple(class_ids), target.device)
    place = (target.long() - HIDDEN).clamp(max=len(table) - 1)
    return table.index_select(0, place.flatten()).view(target.shape)


@lru_cache(maxsize=8)
def _column_table(class_ids: tuple[int, ...], device: torch.device) -> Tensor:
    places = [c - HIDDEN for c in class_ids]
    table = torch.full((max([VOID - HIDDEN, *places]) + 2,), IGNORED, dtype=torch.int64)
    table[places] = torch.arange(len(class_ids))
    return table.to(device)


def at_resolution(target: Tensor, size: Sequence[int]) -> Tensor:
    """(N, H, W) int64 labels at `size` (h, w): the nearest cell, because labels are never interpolated."""
    if tuple(target.shape[1:]) == tuple(size):
        return target
    return F.interpolate(target[:, None].float(), size=tuple(size), mode="nearest-exact")[:, 0].long()


def at_loss(logits: Tensor, scale: int) -> Tensor:
    """Logits (N, C, h, w) where losses are taken: (N, C, scale h, scale w), bilinear."""
    return F.interpolate(logits, scale_factor=scale, mode="bilinear", align_corners=False)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy over the targets that are not IGNORED; zero (with a gradient) when there is none.

    Args:
        logits: (N, C) or (N, C, h, w).
        target: int64 columns or IGNORED, (N,) or (N, H, W), read at the logits' resolution (`at_resolution`).
    """
    target = at_resolution(target, logits.shape[2:])
    if not bool((target != IGNORED).any()):
        return logits.sum() * 0.0
    return F.cross_entropy(logits, target, ignore_index=IGNORED)


def distillation(logits: Tensor, old: Tensor, temperature: float) -> Tensor:
    """Mean over N of KL(softmax(old / T) || softmax(logits / T)); no gradient flows into `old`.

    Its gradient is that of the cross entropy between the two (Li and Hoiem 2016, eq. 2 and 3); as there, the loss is
    not multiplied by T^2.

    Args:
        logits: (N, C).
        old: (N, C_old) with C_old <= C: the old model gives columns beyond its own the probability 0.
    """
    p = F.log_softmax(logits / temperature, dim=1)[:, : old.shape[1]]
    q = F.log_softmax(old.detach() / temperature, dim=1)
    return F.kl_div(p, q, reduction="batchmean", log_target=True)


def logit_distance(logits: Tensor, stored: Tensor) -> Tensor:
    """Mean over N of the mean squared difference over the logits that were stored of each row.

    Args:
        logits: (N, C).
        stored: (N, C') with C' <= C, NaN where nothing was stored; no gradient flows into it.
    """
    known = ~stored.isnan()
    difference = torch.where(known, logits[:, : stored.shape[1]] - stored.nan_to_num(), 0.0)
    return (difference.square().sum(1) / known.sum(1)).mean()


def icarl_loss(logits: Tensor, target: Tensor, old: Tensor | None) -> Tensor:
    """Binary cross entropy of each column, summed over columns, mean over N (Rebuffi et al. 2017, algorithm 3).

    Args:
        logits: (N, C).
        target: (N,) int64 columns.
        old: (N, C_old) logits of the old model: its sigmoids are the targets of the first C_old columns.
    """
    wanted = F.one_hot(target, logits.shape[1]).to(logits)
    if old is not None:
        wanted[:, : old.shape[1]] = old.detach().sigmoid()
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(logits)


def pixel_distillation(logits: Tensor, old_logits: Tensor) -> Tensor:
    """Cross entropy of the old columns with the old model's posterior, new columns left out.

    Args:
        logits: (N, C, h, w) of the model that learns; its first |O| columns are those of the old model.
        old_logits: (N, |O|, h, w).

    Returns:
        -mean over pixels of (1 / |O|) sum_{c in O} q_c log softmax(z_O)_c, q = softmax(old_logits). The softmax runs
        over the old columns only, so that a new class can rise without a cost: what `unbiased_distillation` mends.
    """
    n_old = old_logits.shape[1]
    return -(old_logits.softmax(1) * logits[:, :n_old].log_softmax(1)).sum(1).mean() / n_old


def pixel_binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Sum over classes of the binary cross entropy, mean over the pixels that are not IGNORED (SSUL, arXiv 2106.11562).

    Args:
        logits: (N, C, h, w).
        target: (N, H, W) int64 columns or IGNORED.

    Returns:
        A scalar; zero (with a gradient) when every pixel is IGNORED.
    """
    target = at_resolution(target, logits.shape[-2:])
    valid = target != IGNORED
    if not bool(valid.any()):
        return logits.sum() * 0.0
    wanted = F.one_hot(target.masked_fill(~valid, 0), logits.shape[1]).movedim(-1, 1).to(logits)
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1)
    return loss[valid].mean()
