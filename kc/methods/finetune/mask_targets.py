"""Label maps as sets of masks, and the loss of Mask2Former on them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kc.methods.distributed import mean_of, weight_of, world
from kc.methods.finetune.mask_network import Queries
from kc.openvocab.mask_inference import loss_terms, loss_weights
from kc.types import Batch

_PAIR = 1 << 32
"""More than any instance number."""
MaskSet = tuple[Tensor, Tensor]
"""Masks (n, H, W) float in {0, 1} and their columns (n,) int64 of one image."""


def mask_sets(batch: Batch, columns: Mapping[int, int]) -> list[MaskSet]:
    """The segments of each image whose class has a column.

    Args:
        batch: "panoptic" (N, H, W, 2) and "crowd", else "semantic" (N, H, W).
        columns: class id -> column.

    Returns:
        One mask a segment (panoptic; crowds left out) or a class (semantic).
    """
    sets: list[MaskSet] = []
    panoptic = "panoptic" in batch
    for row, labels in enumerate(batch["panoptic" if panoptic else "semantic"]):
        # One number a segment: finding the pairs that occur takes 20 times as long.
        flat = labels[..., 0].long() * _PAIR + labels[..., 1] if panoptic else labels.long() * _PAIR
        crowd = batch["crowd"][row] if panoptic else frozenset()
        segments = [(value // _PAIR, value % _PAIR, value) for value in torch.unique(flat).tolist()]
        kept = [(c, value) for c, instance, value in segments if c in columns and not (panoptic and instance in crowd)]
        size = labels.shape[:2]
        masks = [(flat == value).float() for _, value in kept]
        found = torch.tensor([columns[c] for c, _ in kept], dtype=torch.int64, device=labels.device)
        sets.append((torch.stack(masks) if masks else torch.zeros(0, *size, device=labels.device), found))
    return sets


def sigmoid_focal(
    logits: Tensor, columns: Tensor, alpha: float = 5.0, gamma: float = 1.0, scale: float = 50.0
) -> Tensor:
    """Focal loss (Lin et al. 2017) of one sigmoid a column, as ECLIPSE trains classifiers.

    Args:
        logits: (N, Q, C).
        columns: (N, Q) int64, the one column of each query that is true.
        alpha: strength; it does not balance the true column against the others.
        gamma: exponent of (1 - p of the truth).
        scale: factor of the mean; the authors' belongs to heads of a hundred columns.

    Returns:
        scale x the mean over queries and columns of alpha (1 - p_t)^gamma (-log p_t). The defaults are those of
        clovaai/ECLIPSE at 9266720 (`continual/method_wrapper/loss.py`, `mask2former/config.py`).
    """
    truth = F.one_hot(columns, logits.shape[-1]).to(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return scale * alpha * (entropy * (1 - (-entropy).exp()) ** gamma).mean()


class MaskLoss:
    """transformers' Mask2FormerLoss for a number of classes that grows: Hungarian matching, then cross entropy of
    classes, binary cross entropy and dice of masks at sampled points, at every stage of the decoder, weighted as the
    model's configuration says.

    The class columns are those of our head: column 0 is "no object". Several processes count the masks and queries of
    all of them, so that the mean of their gradients is that of one batch.

    Args:
        config: of the model.
        n_classes: C, without "no object".
        focal: `sigmoid_focal` in place of the cross entropy of classes.
        class_weight: in place of the configuration's.
        scale: of `sigmoid_focal`.
    """

    def __init__(
        self, config: Any, n_classes: int, focal: bool = False, class_weight: float | None = None, scale: float = 50.0
    ) -> None:
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

        base: Any = Mask2FormerLoss

        class Loss(base):  # type: ignore[misc]
            def get_num_masks(self, class_labels: Any, device: Any) -> Tensor:
                count = torch.tensor(float(sum(len(own) for own in class_labels)), device=device)
                return mean_of(count).clamp_min(1 / world())

            def loss_labels(self, logits: Tensor, labels: Any, indices: Any) -> Any:
                found = torch.full(logits.shape[:2], n_classes, device=logits.device)
                matched = torch.cat([own[j] for own, (_, j) in zip(labels, indices, strict=True)])
                found[self._get_predictions_permutation_indices(indices)] = matched
                if focal:
                    loss = sigmoid_focal(logits, found, scale=scale) * weight_of(
                        torch.tensor(found.numel(), device=logits.device)
                    )
                else:
                    weight = weight_of(self.empty_weight[found])
                    loss = F.cross_entropy(logits.transpose(1, 2), found, self.empty_weight) * weight
                return {"loss_cross_entropy": loss}

        config = copy.deepcopy(config)
        config.num_labels = n_classes
        if class_weight is not None:
            config.class_weight = class_weight
        self.weights = loss_weights(config)
        self.criterion: Any = Loss(config, self.weights)

    def __call__(self, classes: Sequence[Tensor], queries: Queries, sets: Sequence[MaskSet]) -> Tensor:
        """The weighted sum over all stages.

        Args:
            classes: one tensor a stage, (N, Q, 1 + C) logits, column 0 "no object".
            queries: of the same stages.
            sets: the masks of each image with columns 1 .. C.
        """
        moved = [torch.cat([z[..., 1:], z[..., :1]], dim=-1) for z in classes]
        sets = [(masks, columns - 1) for masks, columns in sets]
        terms = loss_terms(self.criterion, self.weights, moved, queries.masks, sets)
        return torch.stack(list(terms.values())).sum()
