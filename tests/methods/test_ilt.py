"""ILT's three terms, each with its strength."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kc.methods.base import Context
from kc.methods.finetune.ilt import Ilt, IltOptions
from kc.methods.finetune.losses import cross_entropy, pixel_distillation
from kc.methods.finetune.per_pixel import Maps


@pytest.mark.parametrize("levels", [0, 2])
def test_the_terms_add_up(levels: int, toy_context: Callable[..., Context]) -> None:
    torch.manual_seed(0)
    method = Ilt(toy_context("semantic", options=IltOptions(3.0, 7.0)))

    def maps(n: int) -> Maps:
        coarse = [torch.randn(1, 3, 4, 4) for _ in range(levels)]
        return Maps(tuple(coarse), torch.randn(1, 2, 4, 4), torch.randn(1, n, 4, 4), 2)

    new, old = maps(4), maps(3)
    target = torch.randint(4, (1, 8, 8))
    a, b = (new.levels[-1], old.levels[-1]) if levels else (new.body, old.body)
    kd = pixel_distillation(new.pixels, old.pixels)
    expected = cross_entropy(new.pixels, target) + 3 * kd + 7 * (a - b).square().mean()
    torch.testing.assert_close(method.loss_against(new, old, target), expected)
