"""PLOP's labels, weights and distances put together as its parts say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kc.methods.base import Context
from kc.methods.finetune.losses import IGNORED
from kc.methods.finetune.per_pixel import Maps
from kc.methods.finetune.plop import (
    EntropyFilter,
    Plop,
    PlopOptions,
    paint,
    pod_loss,
    valid_fraction,
    weighted_cross_entropy,
)
from kc.types import HIDDEN, VOID, Task

FIRST, SECOND = Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",))


@pytest.mark.parametrize("pod", ["paper", "official"])
@pytest.mark.parametrize("entropy", ["paper", "official"])
def test_the_terms_add_up(pod: str, entropy: str, toy_context: Callable[..., Context]) -> None:
    torch.manual_seed(0)
    context = toy_context("semantic", options=PlopOptions(2.0, 3.0, entropy, pod))
    method = Plop(context)
    new = Maps((torch.randn(2, 3, 8, 8),), torch.randn(2, 2, 4, 4), torch.randn(2, 4, 4, 4), 2)
    old = Maps((torch.randn(2, 3, 8, 8),), torch.randn(2, 2, 4, 4), 4 * torch.randn(2, 3, 4, 4), 2)
    target = torch.tensor([0, 0, 3, IGNORED])[torch.randint(4, (2, 8, 8))]
    chooser = EntropyFilter(3, 4, entropy)
    chooser.observe(old.pixels, target == 0)
    method._filter, method._thresholds = chooser, chooser.thresholds()
    accepted = chooser.accepts(old.pixels, chooser.thresholds())
    labels = paint(target, old.pixels, target == 0, accepted)
    weight = valid_fraction(target == 0, accepted)
    distance = pod_loss(
        [*new.levels, new.body], [*old.levels, old.body], new.logits, old.logits,
        feature_weight=2.0, logit_weight=3.0, squared=pod == "official",
    )  # fmt: skip
    expected = weighted_cross_entropy(new.pixels, labels, weight) + distance
    torch.testing.assert_close(method.loss_against(new, old, target), expected)


def test_entropies_are_those_of_the_old_model_where_nothing_is_labelled(toy_context: Callable[..., Context]) -> None:
    method = Plop(toy_context("semantic"))
    method.start_task(FIRST)
    method.end_task(FIRST)
    method.start_task(SECOND)
    labels = torch.full((1, 16, 16), HIDDEN)
    labels[:, :8] = 3
    labels[:, 8:10] = VOID
    images = {"image": torch.rand(1, 3, 16, 16), "sample_id": ["a"], "semantic": labels}
    assert method.previous is not None
    chooser = method.entropies(method.previous, [images, images])
    assert chooser.counts.shape[0] == 3
    assert int(chooser.counts.sum()) == 2 * 3 * 8  # the last 3 of 8 rows at the resolution of the loss
