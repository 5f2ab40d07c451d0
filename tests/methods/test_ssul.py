"""The SSUL-like method: what is old stays to the bit, column 0 and the new classes learn, sure pixels are believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kc.methods.base import Context
from kc.methods.finetune.losses import IGNORED, pixel_binary_cross_entropy
from kc.methods.finetune.per_pixel import Maps
from kc.methods.finetune.ssul import Ssul, SsulOptions
from kc.types import HIDDEN, Task

Make = Callable[..., Context]
Learn = Callable[..., None]
TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",)), Task(2, (4,), (1, 2, 3, 4), ("4",))]


def batches(task: Task) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(task.index)
    ids = torch.tensor([HIDDEN, *task.class_ids])
    images = {
        "image": torch.rand(2, 3, 16, 16, generator=generator),
        "sample_id": [f"{task.index}-{i}" for i in range(2)],
        "semantic": ids[torch.randint(len(ids), (2, 16, 16), generator=generator)],
    }
    return [images] * 3


@pytest.mark.parametrize("train", ["head", "full"])
def test_what_is_old_stays_to_the_bit(train: str, toy_context: Make, learn: Learn) -> None:
    method = Ssul(toy_context("semantic", train=train))
    states = []
    for task in TASKS:
        learn(method, task, batches(task))
        states.append({k: v.clone() for k, v in method.state()[0].items()})
    first, second, third = states
    for before, after, fresh in ((first, second, "steps.2."), (second, third, "steps.3.")):
        for key, value in after.items():
            if fresh in key:
                assert key not in before
            else:
                assert torch.equal(value, before[key]) == ("steps.0." not in key), key


def test_new_columns_start_as_column_0(toy_context: Make, learn: Learn) -> None:
    method = Ssul(toy_context("semantic"))
    learn(method, TASKS[0], batches(TASKS[0]))
    method.start_task(TASKS[1])
    weights = [step.weight for step in method.classifier.steps]
    assert torch.equal(weights[2], weights[0])
    assert not torch.equal(weights[2], weights[1][:1])


def test_sure_pixels_are_believed_where_nothing_is_labelled(toy_context: Make) -> None:
    method = Ssul(toy_context("semantic", options=SsulOptions(0.7)))
    old = torch.full((1, 3, 2, 2), -9.0)
    old[0, 1] = torch.logit(torch.tensor([[0.69, 0.71], [0.71, 0.71]]))
    maps = {n: Maps((), torch.zeros(1, 2, 2, 2), z, 1) for n, z in (("old", old), ("new", torch.randn(1, 4, 2, 2)))}
    target = torch.tensor([[[0, 0], [3, IGNORED]]])
    painted = torch.tensor([[[0, 1], [3, IGNORED]]])
    loss = method.loss_against(maps["new"], maps["old"], target)
    assert loss == pixel_binary_cross_entropy(maps["new"].logits, painted)


def test_bytes_count_what_is_frozen_too(toy_context: Make, learn: Learn) -> None:
    method = Ssul(toy_context("semantic"))
    learn(method, TASKS[0], batches(TASKS[0]))
    before, trained = method.stored_bytes(), method.trained_parameters()
    learn(method, TASKS[1], batches(TASKS[1]))
    width = method.classifier.in_features
    assert method.stored_bytes() == before + 4 * (width + 1)
    assert method.trained_parameters() == 2 * (width + 1) < trained
