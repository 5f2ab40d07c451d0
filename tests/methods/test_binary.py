"""One sigmoid a class: against the authors' number and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kc.methods.finetune.losses import IGNORED, cross_entropy, pixel_binary_cross_entropy

Wave = Callable[..., Tensor]


def test_it_is_that_of_the_authors(wave: Wave) -> None:
    """fcdl94/MiB at 1c589833ce5c1a7446469d4602ceab2cdeac1b0e, BCEWithLogitsLossWithIgnoreIndex, float64."""
    target = (torch.arange(48) * 7 % 5).reshape(2, 4, 6)
    target[0, 0, :3] = IGNORED
    value = pixel_binary_cross_entropy(wave(2, 5, 4, 6), target)
    # The authors' targets are float32 beside float64 logits.
    assert value.item() == pytest.approx(4.536844730377197, rel=1e-6)


def test_by_hand() -> None:
    """Logit 0 says 1/2 of each of three classes; one void pixel does not count."""
    logits = torch.zeros(1, 3, 1, 2)
    target = torch.tensor([[[1, IGNORED]]])
    assert pixel_binary_cross_entropy(logits, target).item() == pytest.approx(3 * math.log(2), rel=1e-6)


def test_classes_do_not_compete() -> None:
    """A gradient on one column leaves every other column alone, which softmax does not."""
    logits = torch.zeros(1, 2, 1, 1, requires_grad=True)
    other = torch.tensor([0.0, 7.0]).reshape(1, 2, 1, 1).requires_grad_(True)
    target = torch.zeros(1, 1, 1, dtype=torch.int64)
    grads = [torch.autograd.grad(f(z, target), z)[0][0, 0].item() for f in (pixel_binary_cross_entropy,
             cross_entropy) for z in (logits, other)]  # fmt: skip
    assert grads[0] == grads[1]
    assert grads[2] != grads[3]


def test_nothing_labelled_gives_zero(wave: Wave) -> None:
    assert pixel_binary_cross_entropy(wave(1, 3, 2, 2), torch.full((1, 2, 2), IGNORED)).item() == 0.0


def test_gradient(wave: Wave) -> None:
    logits = wave(1, 3, 2, 2).requires_grad_(True)
    target = torch.tensor([[[0, 1], [2, IGNORED]]])
    assert torch.autograd.gradcheck(lambda z: pixel_binary_cross_entropy(z, target), logits)
