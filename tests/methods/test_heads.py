"""Growing heads keep old columns; the pyramid keeps the finest resolution."""

from __future__ import annotations

import pytest
import torch

from kc.methods.finetune.decoders import FeaturePyramid
from kc.methods.finetune.heads import GrowingClassifier
from kc.types import Features


def test_old_columns_are_bitwise_the_same_after_growing() -> None:
    torch.manual_seed(0)
    head = GrowingClassifier(5)
    head.grow([7, 3])
    x = torch.randn(4, 5)
    before = head(x)
    head.grow([1])
    after = head(x)
    assert after.shape == (4, 3)
    assert torch.equal(after[:, :2], before)
    assert head.class_ids == [7, 3, 1]
    assert head.columns([1, 7]) == [2, 0]


def test_a_class_is_learned_once() -> None:
    head = GrowingClassifier(5)
    head.grow([7])
    with pytest.raises(ValueError, match=r"\[7\] already"):
        head.grow([7, 8])


def test_pointwise_equals_linear_at_every_position() -> None:
    torch.manual_seed(0)
    head = GrowingClassifier(3, pointwise=True)
    head.grow([0, 1])
    x = torch.randn(2, 3, 4, 5)
    weight, bias = head.steps[0].weight[:, :, 0, 0], head.steps[0].bias
    expected = torch.einsum("nchw,kc->nkhw", x, weight) + bias[None, :, None, None]
    torch.testing.assert_close(head(x), expected)


def test_pyramid_answers_at_the_finest_level_and_uses_the_coarsest() -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramid((4, 6), width=8)
    fine, coarse = torch.randn(2, 4, 8, 6), torch.randn(2, 6, 4, 3)
    out = pyramid(Features(torch.zeros(2, 1), (fine, coarse), (8, 16)))
    assert out.shape == (2, 8, 8, 6)
    other = pyramid(Features(torch.zeros(2, 1), (fine, coarse + torch.randn_like(coarse)), (8, 16)))
    assert not torch.allclose(out, other)
