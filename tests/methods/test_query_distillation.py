"""CoMFormer's two terms: the authors' numbers, hand-solved cases, and what each part is for.

Golden numbers: fcdl94/CoMFormer at 640496b58100fe2e3ab5bf7e9eb79818246bee44, `continual/method_wrapper/loss.py`,
`unbiased_knowledge_distillation_loss`, and `maskformer.py`, `make_pseudolabels2`, float64. There "no object" is the
last column, here the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kc.methods.finetune.comformer import pseudo_masks, query_distillation

Wave = Callable[..., Tensor]


@pytest.mark.parametrize(("gamma", "value"), [(2.0, 1.768612133320266), (0.0, 1.556928248789134)])
def test_distillation_is_that_of_the_authors(wave: Wave, gamma: float, value: float) -> None:
    new, old = wave(2, 7, 6).roll(1, dims=-1), wave(2, 7, 4, phase=1.0).roll(1, dims=-1)
    assert query_distillation(new, old, gamma).item() == pytest.approx(value, rel=1e-12)


def test_pseudo_masks_are_those_of_the_authors(wave: Wave) -> None:
    classes = wave(7, 4, phase=0.3, scale=3.0).roll(1, dims=-1)
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    blobs = [3 - ((y - (2 + q % 3 * 4)) ** 2 + (x - (2 + q * 2)) ** 2) / (2 + q) for q in range(7)]
    taken = torch.zeros(12, 16, dtype=torch.bool)
    taken[:4, :8] = True
    masks, columns = pseudo_masks(classes, torch.stack(blobs).double(), taken)
    assert columns.tolist() == [1, 2, 1, 3]
    assert masks.sum((1, 2)).tolist() == [19, 19, 52, 23]
    assert (masks * torch.arange(192).reshape(12, 16)).sum((1, 2)).tolist() == [1888, 3094, 5250, 977]
    assert not (masks.bool() & taken).any()


def test_a_new_class_may_rise_where_the_old_model_saw_nothing() -> None:
    """q = (no object, old) = (0.9, 0.1); the new model moved all of 0.9 to a new class: no cost, by the sum."""
    old = torch.tensor([[[0.9, 0.1]]]).log()
    moved = torch.tensor([[[1e-9, 0.1, 0.9]]]).log()
    forgot = torch.tensor([[[0.05, 1e-3, 0.949]]]).log()
    assert query_distillation(moved, old).item() == pytest.approx(0.0, abs=1e-6)
    expected = 0.9 * math.log(0.9 / 0.999) + 0.1 * math.log(0.1 / 1e-3)
    assert query_distillation(forgot, old).item() == pytest.approx(expected, rel=1e-4)


def test_queries_without_an_object_weigh_little() -> None:
    """One query sure of a class and one of nothing, both gone wrong: the weight picks the first."""
    old = torch.tensor([[[0.01, 0.99], [0.99, 0.01]]]).log()
    first = torch.tensor([[[0.99, 0.01], [0.99, 0.01]]]).log()
    second = torch.tensor([[[0.01, 0.99], [0.01, 0.99]]]).log()
    assert query_distillation(first, old) > 1000 * query_distillation(second, old)
    assert query_distillation(first, old, 0.0).item() == pytest.approx(query_distillation(second, old, 0.0).item())


def test_pseudo_masks_by_hand() -> None:
    """One row of four pixels; query 0 owns the left half, 1 the right, 2 sees nothing."""
    classes = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0]])
    masks = torch.tensor([[[9.0, 9, -9, -9]], [[-9, -9, 9, 9]], [[9, 9, 9, 9]]])
    free = torch.zeros(1, 4, dtype=torch.bool)
    found, columns = pseudo_masks(classes, masks, free)
    assert columns.tolist() == [1, 2]
    assert found[:, 0].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    # Half of the first is labelled: one pixel of two is not more than half.
    taken = torch.tensor([[True, False, False, False]])
    assert pseudo_masks(classes, masks, taken)[1].tolist() == [2]
    assert pseudo_masks(classes[2:], masks[2:], free)[0].shape == (0, 1, 4)


def test_gradient(wave: Wave) -> None:
    new, old = wave(1, 3, 5).requires_grad_(True), wave(1, 3, 4, phase=1.0)
    assert torch.autograd.gradcheck(lambda z: query_distillation(z, old), new)
