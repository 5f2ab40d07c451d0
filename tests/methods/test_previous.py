"""The copy that distillation compares with: frozen to the bit, in evaluation mode, gone when the task is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kc.methods.base import Context
from kc.methods.finetune.naive import Finetune
from kc.types import Batch, Features, Task

TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",))]


class Compares(Finetune):
    """Pulls new features to zero, so that every weight has a gradient."""

    keeps_previous = True

    def extra_loss(self, batch: Batch, features: Features, logits: Tensor) -> Tensor | None:
        return None if self.previous is None else logits.square().mean()


def batch(labels: list[int]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(len(labels))
    return {
        "image": torch.rand(len(labels), 3, 16, 16, generator=generator),
        "sample_id": [f"s{i}" for i in range(len(labels))],
        "label": torch.tensor(labels),
        "semantic": torch.tensor(labels)[:, None, None].expand(-1, 16, 16).clone(),
    }


@pytest.mark.parametrize("kind", ["classification", "semantic"])
@pytest.mark.parametrize("train", ["head", "full"])
def test_the_copy_does_not_move(kind: str, train: str, toy_context: Callable[..., Context]) -> None:
    method = Compares(toy_context(kind, train=train))
    method.start_task(TASKS[0])
    assert method.previous is None
    method.end_task(TASKS[0])
    images = batch([1, 3, 2, 3])
    method.eval()
    with torch.no_grad():
        before = method.logits(method.features(images))
    method.start_task(TASKS[1])
    method.train()
    previous = method.previous
    assert previous is not None
    assert previous.classifier.class_ids == method.classifier.class_ids[:-1]
    assert not any(m.training for m in previous.classifier.modules())
    assert not any(p.requires_grad for p in previous.classifier.parameters())
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        method.loss_on(images).backward()
        optimizer.step()
    new = method.features(images)
    assert torch.equal(previous.logits(previous.features(images, new)), before)
    assert not torch.allclose(method.logits(new)[:, : before.shape[1]], before)
    assert not any(k.startswith("previous.") for k in method.state()[0])
    method.end_task(TASKS[1])
    assert method.previous is None


def test_what_a_method_adds_is_added(toy_context: Callable[..., Context]) -> None:
    method = Compares(toy_context())
    method.start_task(TASKS[0])
    images = batch([1, 2])
    base = method.loss_on(images)
    method.end_task(TASKS[0])
    method.start_task(TASKS[1])
    logits = method.logits(method.features(images))
    expected = method.loss(logits, images["label"]) + logits.square().mean()
    assert torch.equal(method.loss_on(images), expected)
    assert not torch.equal(base, expected)
