"""Distillation of maps: the old model's answer at every pixel (LwF, Li and Hoiem 2017, as used for segmentation)."""

from __future__ import annotations

from torch import Tensor


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
