"""Synaptic intelligence: the path by hand, against a naive twin, and that it holds what it protects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kc.methods.base import Context
from kc.methods.finetune.ewc import quadratic_penalty
from kc.methods.finetune.si import Si, SiOptions, path_importance
from kc.types import Task

TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",))]
Make = Callable[..., Context]
Images = Callable[..., dict[str, Any]]
Learn = Callable[..., None]


def test_importance_by_hand() -> None:
    found = path_importance({"a": torch.tensor([2.0, 1.0])}, {"a": torch.tensor([3.0, 0.0])}, 1.0)
    torch.testing.assert_close(found["a"], torch.tensor([2.0 / 10.0, 1.0]))


def test_path_is_that_of_the_base_loss(toy_context: Make, images: Images) -> None:
    """In the second task the penalty pulls; a twin differentiates the base loss alone at every step."""
    method = Si(toy_context(options=SiOptions(lambda_=2.0)))
    batches = [[images([1, 2, 1, 2], seed=t)] for t in range(2)]
    batches[1][0]["label"][:] = 3
    for task, data in zip(TASKS, batches, strict=True):
        method.start_task(task)
        method.on_train_start()
        start = method.weights()
        path = {k: torch.zeros_like(v) for k, v in start.items()}
        optimizer = torch.optim.SGD(method.trained().values(), lr=0.1)
        for _ in range(4):
            features = method.features(data[0])
            base = method.loss(method.logits(features), data[0]["label"])
            gradients = torch.autograd.grad(base, list(method.trained().values()))
            optimizer.zero_grad()
            method.training_step(data[0], 0).backward()
            method.on_before_optimizer_step(optimizer)
            before = method.weights()
            optimizer.step()
            method.on_train_batch_end(None, data[0], 0)
            for (k, w), g in zip(method.trained().items(), gradients, strict=True):
                path[k] -= g * (w.detach() - before[k])
        old = {k: v.clone() for k, v in method.importance.items()}
        method.end_task(task)
        for k, value in path.items():
            moved = method.weights()[k] - start[k]
            expected = old.get(k, torch.zeros_like(value)) + (value / (moved**2 + 0.1)).clamp_min(0)
            torch.testing.assert_close(method.importance[k], expected, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(method.anchor[k], v) for k, v in method.weights().items())
    assert max(v.max().item() for v in method.importance.values()) > 0


def test_it_holds_what_it_protects(toy_context: Make, images: Images, learn: Learn) -> None:
    paid = {}
    for strength in (0.0, 200.0):
        method = Si(toy_context(options=SiOptions(lambda_=strength)))
        torch.manual_seed(0)
        learn(method, TASKS[0], [images([1, 2, 1, 2])], epochs=20)
        anchor, importance = dict(method.anchor), dict(method.importance)
        learn(method, TASKS[1], [images([3, 3, 3])], epochs=20, lr=0.02)
        paid[strength] = quadratic_penalty(method.trained(), anchor, importance).item()
    assert paid[200.0] < 0.5 * paid[0.0]


def test_state_comes_back(toy_context: Make, images: Images, learn: Learn) -> None:
    method = Si(toy_context())
    learn(method, TASKS[0], [images([1, 2, 1])])
    other = Si(toy_context())
    other.load_state(*method.state())
    assert all(torch.equal(method.importance[k], v) for k, v in other.importance.items())
    assert other.anchor.keys() == method.anchor.keys() != set()
