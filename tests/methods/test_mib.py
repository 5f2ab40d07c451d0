"""MiB's two terms and the start of its new columns."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from kc.methods.base import Context
from kc.methods.finetune.mib import Mib, MibOptions, unbiased_cross_entropy, unbiased_distillation
from kc.methods.finetune.per_pixel import Maps
from kc.types import Task

FIRST, SECOND = Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3, 4), (1, 2, 3, 4), ("3", "4"))


def test_the_terms_add_up(toy_context: Callable[..., Context]) -> None:
    torch.manual_seed(0)
    method = Mib(toy_context("semantic", options=MibOptions(4.0)))
    new = Maps((), torch.randn(1, 2, 4, 4), torch.randn(1, 5, 4, 4), 2)
    old = Maps((), torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4), 2)
    target = torch.randint(5, (1, 8, 8))
    kd = unbiased_distillation(new.pixels, old.pixels)
    expected = unbiased_cross_entropy(new.pixels, target, 3) + 4 * kd
    torch.testing.assert_close(method.loss_against(new, old, target), expected)


def test_new_columns_start_as_background(toy_context: Callable[..., Context]) -> None:
    method = Mib(toy_context("semantic"))
    method.start_task(FIRST)
    first = method.classifier.steps[0]
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    weight, bias = first.weight.clone(), first.bias.clone()
    old = method.classifier.steps[1].weight.clone()
    method.end_task(FIRST)
    method.start_task(SECOND)
    new = method.classifier.steps[2]
    assert isinstance(new, nn.Conv2d)
    assert torch.equal(new.weight, weight.expand_as(new.weight))
    torch.testing.assert_close(first.bias, bias - math.log(3))
    assert torch.equal(new.bias, first.bias.expand(2))
    assert torch.equal(method.classifier.steps[1].weight, old)
    assert method.previous is not None
    assert torch.equal(method.previous.classifier.steps[0].bias, bias)


def test_a_task_without_new_columns_changes_nothing(toy_context: Callable[..., Context]) -> None:
    method = Mib(toy_context("semantic"))
    method.start_task(FIRST)
    method.end_task(FIRST)
    before = {k: v.clone() for k, v in method.state()[0].items()}
    method.start_task(Task(1, (1,), (1, 2), ("1",)))
    assert all(torch.equal(v, before[k]) for k, v in method.state()[0].items())
