"""The diagonal Fisher information of a model's weights, one sample at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from kc.methods.base import Batch


def diagonal_fisher(
    loss_of: Callable[[Batch], Tensor], parameters: Mapping[str, Tensor], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """F = mean over samples of (d loss / d w)^2, of the shape of each parameter (Kirkpatrick et al. 2017).

    The gradient is taken of each sample alone: the square of a batch's mean gradient, which many frameworks take
    instead, is smaller by up to the batch size, because the gradients of samples cancel. One backward pass a sample
    costs what a batch costs for each image and holds for every network, whatever it is made of.

    Args:
        loss_of: the negative log likelihood of a batch of one.
        parameters: what to differentiate by; a parameter that a sample does not touch counts 0.
        batches: batches of any size; every tensor and every list has one entry a sample.

    Raises ValueError where there is no sample.
    """
    names, values = list(parameters), list(parameters.values())
    total = {name: torch.zeros_like(value, requires_grad=False) for name, value in parameters.items()}
    count = 0
    for batch in batches:
        for row in range(len(batch["sample_id"])):
            gradients = torch.autograd.grad(loss_of(sample(batch, row)), values, allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient.detach() ** 2
            count += 1
    if count == 0:
        raise ValueError("the Fisher information of no sample is undefined")
    return {name: value / count for name, value in total.items()}


NEWEST = 0.9


def running_fisher(old: Tensor | None, gradient: Tensor) -> Tensor:
    """0.9 g^2 + 0.1 F: the newest gradient counts most; before the first, F is 1 (fcdl94/MiB at 3da2fe3, `EWC.update`).

    Args:
        old: F so far, None before the first step.
        gradient: of the mean loss of a batch, without the penalty.
    """
    before = torch.ones_like(gradient) if old is None else old
    return NEWEST * gradient**2 + (1 - NEWEST) * before


def min_max_normalize(fisher: Tensor) -> Tensor:
    """(F - min) / (max - min + 1e-8) over the entries of one tensor (`normalize_fn` of the same code)."""
    return (fisher - fisher.min()) / (fisher.max() - fisher.min() + 1e-8)


def sample(batch: Batch, row: int) -> dict[str, Any]:
    """One row of a batch, as a batch of one."""
    return {key: value[row : row + 1] for key, value in batch.items()}
