"""LoRA: the encoder's own weights and old adapters are the same to the bit after a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kc.encoders.lite import Lite0
from kc.methods.base import Context
from kc.methods.finetune.lora import Lora, LoraOptions, adaptable
from kc.types import Task

TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",))]
Make = Callable[..., Context]
Images = Callable[..., dict[str, Any]]
Learn = Callable[..., None]


def network_of(method: Lora) -> dict[str, torch.Tensor]:
    assert method.network is not None
    return {k: v.detach().clone() for k, v in method.network.state_dict().items()}


def test_adapters_start_without_effect(toy_context: Make, images: Images) -> None:
    context = toy_context()
    method, batch = Lora(context), images([1, 2])
    with torch.no_grad():
        torch.testing.assert_close(method.features(batch).pooled, context.encoder(batch["image"]).pooled)


@pytest.mark.parametrize("scope", ["grow", "task"])
def test_only_the_newest_adapter_moves(scope: str, toy_context: Make, images: Images, learn: Learn) -> None:
    method = Lora(toy_context(options=LoraOptions(scope=scope, rank=2)))
    method.train()
    learn(method, TASKS[0], [images([1, 2, 1, 2])], epochs=3)
    before = network_of(method)
    learn(method, TASKS[1], [images([3, 3, 3])], epochs=3)
    after = network_of(method)
    moved = {k for k, v in before.items() if not torch.equal(after[k], v)}
    assert len(method.adapters) == {"grow": 1, "task": 2}[scope]
    if scope == "task":
        assert not moved
        fresh = {k: v for k, v in after.items() if k not in before}
        assert fresh
        assert all(".task1." in k for k in fresh)
        assert any(v.abs().max() > 0 for k, v in fresh.items() if "lora_B" in k)
    else:
        assert moved
        assert all("lora_" in k for k in moved)
    original = method.context.encoder.state_dict()
    for key, value in original.items():
        base = key.replace("stem.", "stem.base_layer.").replace("body.", "body.base_layer.")
        assert torch.equal(after[base], value), key


@pytest.mark.parametrize("scope", ["grow", "task"])
def test_state_holds_adapters_only_and_comes_back(scope: str, toy_context: Make, images: Images, learn: Learn) -> None:
    method, test = Lora(toy_context(options=LoraOptions(scope=scope))), images([1, 2, 3], seed=5)
    for task, labels in zip(TASKS, ([1, 2, 1], [3, 3]), strict=True):
        learn(method, task, [images(labels, seed=task.index)], epochs=2)
    tensors, meta = method.state()
    assert not any(k.startswith("network.") and ".lora_" not in k for k in tensors)
    other = Lora(toy_context(options=LoraOptions(scope=scope)))
    other.load_state(tensors, meta)
    scores = [m.predict(test, (1, 2, 3)).scores for m in (method.eval(), other.eval())]
    assert scores[0] is not None
    assert torch.equal(scores[0], scores[1])


def test_what_an_adapter_can_stand_beside() -> None:
    names = [type(m).__name__ for m in Lite0().modules() if adaptable(m)]
    assert names.count("Conv2d") > 30
    assert "Conv2dSame" not in names
    assert not adaptable(nn.Conv2d(4, 4, 3, groups=4))
