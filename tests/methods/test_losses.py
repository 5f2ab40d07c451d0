"""Losses against hand-solved tensors and naive loops."""

from __future__ import annotations

import math

import pytest
import torch

from kc.methods.finetune.losses import IGNORED, at_loss, cross_entropy, to_columns
from kc.types import HIDDEN, VOID


def test_columns_of_known_hidden_and_unknown_ids() -> None:
    target = torch.tensor([[0, 7], [3, VOID], [HIDDEN, 200]])
    columns = to_columns(target, [HIDDEN, 7, 3])
    assert columns.tolist() == [[IGNORED, 1], [2, IGNORED], [0, IGNORED]]


def test_columns_of_large_ids() -> None:
    assert to_columns(torch.tensor([846, 300]), [846]).tolist() == [0, IGNORED]
    assert to_columns(torch.tensor([3, 0]), []).tolist() == [IGNORED, IGNORED]


def test_the_256th_column_is_trained_like_any_other() -> None:
    target = to_columns(torch.tensor([255, 0]), range(300))
    logits = torch.zeros(2, 300, requires_grad=True)
    cross_entropy(logits, target).backward()
    assert logits.grad is not None
    assert logits.grad[0, 255].item() == pytest.approx((1 / 300 - 1) / 2)


def test_cross_entropy_by_hand() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 0, 0, 0] = math.log(3.0)  # probabilities 3/4 and 1/4 at the first pixel, 1/2 at the second
    target = torch.tensor([[[1, 0]]])
    expected = (math.log(4.0) + math.log(2.0)) / 2
    assert math.isclose(cross_entropy(logits, target).item(), expected, rel_tol=1e-6)
    void = torch.tensor([[[1, IGNORED]]])
    assert math.isclose(cross_entropy(logits, void).item(), math.log(4.0), rel_tol=1e-6)


def test_labels_are_picked_not_mixed() -> None:
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 0, 0], [1, 1, 0, 0]])[None]
    small = torch.tensor([[[0, 2], [1, 0]]])
    assert torch.equal(cross_entropy(logits, target), cross_entropy(logits, small))


def test_nothing_labelled_gives_zero_with_a_gradient() -> None:
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 2, 2), IGNORED))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_gradients_of_cross_entropy() -> None:
    seed = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 4, generator=seed, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([3, IGNORED, 0])
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, target), vectors)
    maps = torch.randn(1, 3, 2, 2, generator=seed, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[[0, 1, 2, IGNORED], [2, 2, 1, 0]] * 2])
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, labels), maps)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(at_loss(z, 2), labels), maps)
