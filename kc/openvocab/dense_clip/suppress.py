"""Channel suppression (GCLIP, arXiv 2502.06818): one output channel of an FFN is far stronger than all others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outlier:
    """The strongest output channel of one FFN: its weight norm, the mean norm of the others, and how many of their
    standard deviations lie between (`z`; infinite where the others do not vary)."""

    channel: int
    norm: float
    others: float
    z: float


def channel_norms(weight: Tensor) -> Tensor:
    """L2 norm (D,) float32 of each output channel of a linear weight (D, D_in)."""
    norms: Tensor = torch.linalg.vector_norm(weight.detach().float(), dim=1)
    return norms


def outlier(weight: Tensor) -> Outlier:
    """The output channel d^ = argmax_d ||W[d, :]|| of `weight` (D, D_in) beside the others."""
    norms = channel_norms(weight)
    channel = int(norms.argmax())
    others = torch.cat([norms[:channel], norms[channel + 1 :]])
    mean, deviation = float(others.mean()), float(others.std(correction=0))
    gap = float(norms[channel]) - mean
    return Outlier(channel, float(norms[channel]), mean, gap / deviation if deviation > 0 else float("inf"))


def suppressed(weight: Tensor) -> Tensor:
    """A copy of `weight` (D, D_in) whose strongest output channel has the mean norm of the other channels."""
    found = outlier(weight)
    result = weight.detach().clone()
    result[found.channel] *= found.others / found.norm
    return result
