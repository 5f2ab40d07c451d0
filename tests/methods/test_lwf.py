"""Distillation against the formula, Avalanche's numbers, and what it does to a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kc.methods.base import Context
from kc.methods.finetune.losses import distillation
from kc.methods.finetune.lwf import Lwf, LwfOptions
from kc.types import Task

TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",))]


def fixed(*shape: int, scale: float, shift: float) -> Tensor:
    values = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + shift) * scale
    return values.reshape(shape)


def test_golden_number_of_avalanche() -> None:
    # avalanche-lib 0.6.0 (ContinualAI/avalanche), LearningWithoutForgetting._distillation_loss, T = 2, units 0 to 2.
    out, old = fixed(5, 4, scale=3.0, shift=0.1)[:, :3], fixed(5, 4, scale=3.0, shift=2.0)[:, :3]
    assert distillation(out, old, 2.0).item() == pytest.approx(1.1841317355856602, rel=1e-12)
    assert distillation(out, old, 1.0).item() != pytest.approx(1.1841317355856602, rel=1e-3)


def test_by_hand() -> None:
    logits, old = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])  # q = (3/4, 1/4) at T = 2
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert distillation(logits, old, 2.0).item() == pytest.approx(expected, rel=1e-6)
    assert distillation(old, old, 2.0).item() == pytest.approx(0.0, abs=1e-7)


def test_new_columns_compete_and_are_asked_for_nothing() -> None:
    logits, old = torch.tensor([[0.0, 0.0, math.log(2.0)]]), torch.tensor([[0.0, 0.0]])
    # At T = 1: q = (1/2, 1/2, 0) and p = (1/4, 1/4, 1/2).
    assert distillation(logits, old, 1.0).item() == pytest.approx(math.log(2.0), rel=1e-6)
    assert distillation(logits[:, :2], old, 1.0).item() == pytest.approx(0.0, abs=1e-7)


def test_gradient_is_that_of_the_papers_cross_entropy() -> None:
    torch.manual_seed(0)
    z, old = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.randn(4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: distillation(x, old, 2.0), (z,))
    entropy = -((old / 2).softmax(1) * (z / 2).log_softmax(1)).sum(1).mean()
    (a,) = torch.autograd.grad(distillation(z, old, 2.0), z)
    (b,) = torch.autograd.grad(entropy, z)
    torch.testing.assert_close(a, b)


Make = Callable[..., Context]
Images = Callable[..., dict[str, Any]]
Learn = Callable[..., None]


def test_old_answers_move_less(toy_context: Make, images: Images, learn: Learn) -> None:
    new, drift = images([3, 3, 3, 3], seed=1), {}
    for strength in (0.0, 20.0):
        method = Lwf(toy_context(options=LwfOptions(lambda_=strength, columns="old")))
        torch.manual_seed(0)
        learn(method, TASKS[0], [images([1, 2, 1, 2])], epochs=5)
        with torch.no_grad():
            before = method.logits(method.features(new)).softmax(1)
        learn(method, TASKS[1], [new], epochs=20, lr=0.02)
        with torch.no_grad():
            after = method.logits(method.features(new))[:, :2].softmax(1)
        drift[strength] = (after - before).abs().max().item()
    assert drift[20.0] < 0.5 * drift[0.0]


@pytest.mark.parametrize("train", ["head", "full"])
def test_the_teacher_sees_the_new_images_with_its_own_encoder(
    train: str, toy_context: Make, images: Images, learn: Learn
) -> None:
    new = images([3, 3, 3], seed=1)
    method = Lwf(toy_context(train=train, options=LwfOptions(lambda_=2.0)))
    learn(method, TASKS[0], [images([1, 2, 1, 2])])
    method.eval()
    old = method.logits(method.features(new)).detach()
    method.start_task(TASKS[1])
    with torch.no_grad():
        for p in method.trained().values():
            p.add_(0.1)
    features = method.features(new)
    logits = method.logits(features)
    found = method.extra_loss(new, features, logits)
    torch.testing.assert_close(found, 2.0 * distillation(logits, old, 2.0))
    among_old = Lwf(toy_context(train=train, options=LwfOptions(lambda_=2.0, columns="old")))
    among_old.previous = method.previous
    torch.testing.assert_close(among_old.extra_loss(new, features, logits), 2.0 * distillation(logits[:, :2], old, 2.0))
