"""Queries to maps and the terms of the loss, by the rules of Mask2Former (Cheng et al. 2022, arXiv 2112.01527)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kc.types import VOID, Instances, Int32Array

SCORE, OVERLAP = 0.8, 0.8
TOP = 100


def at_size(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits (Q, h, w) at `size`, bilinear."""
    return F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]


def semantic_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """(C, H, W): sum over queries of the probability of a class, without "no object", times sigmoid(mask).

    Args:
        classes: (Q, 1 + C) probabilities, column 0 "no object".
        masks: (Q, H, W) logits.
    """
    return torch.einsum("qc,qhw->chw", classes[:, 1:], masks.sigmoid())


def panoptic_map(
    classes: Tensor, masks: Tensor, class_ids: Sequence[int], thing_ids: Collection[int],
    score: float = SCORE, overlap: float = OVERLAP,
) -> Int32Array:  # fmt: skip
    """A panoptic map (H, W, 2) int32: each pixel to the sure query with the highest score x mask.

    A query counts where its best column is a class with probability above `score`. Its segment is where it wins and
    its mask is at least 1/2; it is dropped where it wins less than `overlap` of its mask. Stuff of one class is one
    segment.

    Args:
        classes: (Q, 1 + C) probabilities, column 0 "no object".
        masks: (Q, H, W) logits.
        class_ids: class of each column after the first.
        thing_ids: classes whose segments stay apart.
    """
    best, column = classes.max(-1)
    keep = (column > 0) & (best > score)
    out = np.zeros((*masks.shape[1:], 2), dtype=np.int32)
    out[..., 0] = VOID
    if not bool(keep.any()):
        return out
    inside = masks[keep].sigmoid()
    winner = (best[keep][:, None, None] * inside).argmax(0)
    instance = 0
    for k, c in enumerate(column[keep].tolist()):
        own = inside[k] >= 0.5
        won = winner == k
        segment = (won & own).cpu().numpy()
        if not segment.any() or int(won.sum()) / int(own.sum()) < overlap:
            continue
        class_id = class_ids[c - 1]
        instance += class_id in thing_ids
        out[segment] = (class_id, instance if class_id in thing_ids else 0)
    return out


def instances(
    classes: Tensor, masks: Tensor, class_ids: Sequence[int], thing_ids: Collection[int], top: int = TOP
) -> Instances:
    """The `top` best pairs of query and class, of which the things are kept: one query may be several instances.

    The score is the probability of the class times the mean of sigmoid(mask) where that is above 1/2; 0 without such
    pixels.

    Args:
        classes: (Q, 1 + C) probabilities, column 0 "no object".
        masks: (Q, H, W) logits.
        class_ids: class of each column after the first.
        thing_ids: the countable classes; others take places among the `top`, as in the authors' code.
        top: pairs that compete.
    """
    p, order = (x[:top] for x in classes[:, 1:].flatten().sort(descending=True, stable=True))
    found = torch.as_tensor(list(class_ids), device=classes.device)[order % len(class_ids)]
    things = torch.isin(found, torch.as_tensor(list(thing_ids), device=found.device, dtype=found.dtype))
    p, found, logits = p[things], found[things], masks[order[things] // len(class_ids)]
    inside = logits > 0
    area = inside.flatten(1).sum(1)
    mean = (logits.sigmoid() * inside).flatten(1).sum(1) / area.clamp_min(1)
    scores, best = (p * mean).sort(descending=True, stable=True)
    return Instances(inside[best].cpu().numpy(), found[best].cpu().numpy(), scores.float().cpu().numpy())


def loss_weights(config: Any) -> dict[str, float]:
    """Term of transformers' Mask2FormerLoss -> its weight in the configuration."""
    return {"loss_cross_entropy": config.class_weight, "loss_mask": config.mask_weight, "loss_dice": config.dice_weight}


def loss_terms(
    criterion: Any, weights: Mapping[str, float], classes: Sequence[Tensor], masks: Sequence[Tensor],
    targets: Sequence[tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:  # fmt: skip
    """Each weighted term of each stage of the decoder, the last stage without a number.

    Args:
        criterion: transformers' Mask2FormerLoss.
        weights: of its terms.
        classes: of each stage (N, Q, C + 1) logits, the last column "no object".
        masks: of each stage (N, Q, h, w) logits.
        targets: of each image masks (n, H, W) float in {0, 1} and classes (n,) int64.
    """
    stages = [{"class_queries_logits": c, "masks_queries_logits": m} for c, m in zip(classes, masks, strict=True)]
    last = stages.pop()
    truth = {"mask_labels": [own for own, _ in targets], "class_labels": [labels for _, labels in targets]}
    losses = criterion.to(classes[0].device)(**last, **truth, auxiliary_predictions=stages)
    return {key: w * v for key, v in losses.items() for name, w in weights.items() if key.startswith(name)}
