"""One sigmoid a class: each class against all others, so that classes do not compete for one softmax."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kc.methods.finetune.losses import IGNORED, at_resolution


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
