"""Label maps as masks, by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from kc.methods.finetune.mask_head import MaskLoss, mask_sets, sigmoid_focal
from kc.methods.finetune.mask_network import Queries, tiny_config
from kc.types import HIDDEN, VOID


def test_semantic_maps() -> None:
    labels = torch.tensor([[[7, 7, HIDDEN], [3, 9, VOID]], [[VOID, VOID, VOID], [HIDDEN, HIDDEN, 9]]])
    first, second = mask_sets({"semantic": labels}, {7: 2, 3: 1})
    assert first[1].tolist() == [1, 2]
    assert first[0].tolist() == [[[0, 0, 0], [1, 0, 0]], [[1, 1, 0], [0, 0, 0]]]
    assert second[0].shape == (0, 2, 3)
    assert second[1].tolist() == []


def test_panoptic_maps_keep_instances_apart_and_leave_crowds_out() -> None:
    category = torch.tensor([[5, 5, 5, 8], [5, 5, VOID, 8]])
    instance = torch.tensor([[1, 1, 2, 0], [3, 3, 0, 0]])
    panoptic = torch.stack([category, instance], -1)[None]
    ((masks, columns),) = mask_sets({"panoptic": panoptic, "crowd": [frozenset({3})]}, {5: 1, 8: 2})
    assert columns.tolist() == [1, 1, 2]
    assert masks.sum((1, 2)).tolist() == [2, 1, 2]
    assert masks[0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("alpha", "gamma", "expected"), [(5.0, 1.0, 175.9538939956916), (2.0, 2.0, 54.544024809183135)]
)
def test_focal_loss_is_that_of_the_authors(
    alpha: float, gamma: float, expected: float, wave: Callable[..., Tensor]
) -> None:
    """clovaai/ECLIPSE at 9266720, `sigmoid_focal_loss` of `continual/method_wrapper/loss.py`."""
    columns = torch.tensor([[0, 4, 2], [3, 4, 1]])
    assert sigmoid_focal(wave(2, 3, 5), columns, alpha, gamma).item() == pytest.approx(expected, rel=1e-8)
    assert sigmoid_focal(wave(2, 3, 5), columns, alpha, gamma, 5.0).item() == pytest.approx(expected / 10, rel=1e-8)


def test_gradient_of_the_focal_loss(wave: Callable[..., Tensor]) -> None:
    columns = torch.tensor([[0, 1, 2]])
    assert torch.autograd.gradcheck(lambda z: sigmoid_focal(z, columns), wave(1, 3, 3).requires_grad_())


def test_a_focal_mask_loss_sees_the_class_of_the_matched_query() -> None:
    """One mask, which the second query has; only the term of classes tells the two losses apart."""
    masks = torch.full((1, 2, 4, 4), -20.0)
    masks[0, 1] = 20.0
    classes = torch.tensor([[[2.0, -1.0, 0.5], [-0.5, 1.0, 1.5]]])
    found = []
    for weight in (2.0, 10.0):
        torch.manual_seed(0)
        loss = MaskLoss(tiny_config(), 2, focal=True, class_weight=weight)
        found.append(loss([classes], Queries((classes,), (masks,)), [(torch.ones(1, 4, 4), torch.tensor([2]))]).item())
    expected = sigmoid_focal(classes, torch.tensor([[0, 2]])).item()
    assert found[1] - found[0] == pytest.approx(8 * expected, rel=1e-4)


@pytest.fixture
def in_double() -> Iterator[None]:
    """Points are drawn, and classes weighed, in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("focal", [False, True])
def test_gradient_of_the_whole_loss(focal: bool, wave: Callable[..., Tensor]) -> None:
    """With the same points each time; no query is so near another that a step changes the matching."""
    sets = [(torch.tensor([[[1.0, 0], [1, 0]], [[0, 1], [0, 0]]]), torch.tensor([1, 2]))]
    loss = MaskLoss(tiny_config(), 2, focal=focal)

    def whole(*values: Tensor) -> Tensor:
        torch.manual_seed(0)
        classes, masks = values[:2], values[2:]
        return loss(classes, Queries(classes, masks), sets)

    stages = [wave(1, 3, 3), wave(1, 3, 3).flip(1), wave(1, 3, 4, 4), wave(1, 3, 4, 4).flip(1) * 2]
    assert torch.autograd.gradcheck(whole, [z.requires_grad_() for z in stages])
