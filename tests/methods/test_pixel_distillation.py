"""Distillation of maps against the authors' number, by hand and in double."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kc.methods.finetune.losses import pixel_distillation

Wave = Callable[..., Tensor]


def test_it_is_that_of_the_authors(wave: Wave) -> None:
    """fcdl94/MiB at 1c589833ce5c1a7446469d4602ceab2cdeac1b0e, `utils/loss.py`, KnowledgeDistillationLoss, float64."""
    value = pixel_distillation(wave(2, 5, 4, 6), wave(2, 3, 4, 6, phase=1.0))
    assert value.item() == pytest.approx(0.473134766659964, rel=1e-12)


def test_by_hand() -> None:
    """q = (1/2, 1/2) against softmax (1/4, 3/4) of the two old columns; the third column is not seen."""
    logits = torch.tensor([0.0, math.log(3.0), 50.0]).reshape(1, 3, 1, 1)
    expected = -(math.log(0.25) + math.log(0.75)) / 2 / 2
    assert pixel_distillation(logits, torch.zeros(1, 2, 1, 1)).item() == pytest.approx(expected, rel=1e-6)


def test_it_is_least_where_nothing_changed(wave: Wave) -> None:
    old = wave(1, 3, 2, 2)
    same = pixel_distillation(old, old)
    assert pixel_distillation(old + 5, old).item() == pytest.approx(same.item())
    assert pixel_distillation(old * 1.1, old) > same
    assert pixel_distillation(old * 0.9, old) > same


def test_gradient(wave: Wave) -> None:
    logits = wave(1, 4, 2, 2).requires_grad_(True)
    old = wave(1, 3, 2, 2, phase=1.0)
    assert torch.autograd.gradcheck(lambda z: pixel_distillation(z, old), logits)
