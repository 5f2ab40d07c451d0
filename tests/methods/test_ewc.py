"""EWC: the penalty, several tasks in one parabola, and that it holds what it protects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from kc.methods.base import Context
from kc.methods.finetune.ewc import Ewc, EwcOnline, EwcOnlineOptions, EwcOptions, quadratic_penalty, sample_labels
from kc.types import Task

TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",)), Task(2, (4,), (1, 2, 3, 4), ("4",))]
LABELS = [[1, 2, 1, 2, 1], [3, 3, 3], [4, 4, 4, 4]]
Make = Callable[..., Context]
Images = Callable[..., dict[str, Any]]
Learn = Callable[..., None]


def test_penalty_by_hand() -> None:
    w, anchor, f = {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([0.0, 4.0])}, {"a": torch.tensor([3.0, 0.5])}
    assert quadratic_penalty(w, anchor, f).item() == 3.0 * 1 + 0.5 * 4
    more = w | {"new column": torch.tensor([9.0])}
    assert quadratic_penalty(more, anchor, f).item() == 5.0


def test_penalty_gradient() -> None:
    torch.manual_seed(0)
    w, a, f = (torch.rand(4, dtype=torch.float64) for _ in range(3))
    w.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: quadratic_penalty({"a": x}, {"a": a}, {"a": f}), (w,))


def test_penalty_as_avalanche() -> None:
    # avalanche-lib 0.6.0, EWCPlugin.before_backward, the network of test_fisher moved by 0.5 sin: 0.4668397903442383
    from math import prod

    def fixed(*shape: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
        return (torch.sin(torch.arange(prod(shape), dtype=torch.float64) * 1.7 + shift) * scale).reshape(shape)

    shapes = ((4, 3), (4,), (3, 4), (3,))
    weights = {str(i): fixed(*s, shift=i) for i, s in enumerate(shapes)}
    x, y = fixed(6, 3, scale=2.0, shift=0.3), torch.tensor([0, 1, 2, 0, 1, 2])
    leaves = {k: v.clone().requires_grad_(True) for k, v in weights.items()}
    fisher = {k: torch.zeros_like(v) for k, v in weights.items()}
    for i in range(6):
        hidden = torch.tanh(F.linear(x[i : i + 1], leaves["0"], leaves["1"]))
        loss = F.cross_entropy(F.linear(hidden, leaves["2"], leaves["3"]), y[i : i + 1])
        for k, g in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            fisher[k] += g**2 / 6
    moved = {k: v + fixed(*v.shape, scale=0.5, shift=10 + int(k)) for k, v in weights.items()}
    assert quadratic_penalty(moved, weights, fisher).item() == pytest.approx(0.4668397903442383, rel=1e-6)


def test_separate_penalties_are_one_parabola(toy_context: Make, images: Images, learn: Learn) -> None:
    method = Ewc(toy_context(options=EwcOptions(lambda_=3.0)))
    terms = []
    for task, labels in zip(TASKS[:2], LABELS[:2], strict=True):
        batches = [images(labels, seed=task.index)]
        learn(method, task, batches, epochs=3)
        before = {k: v.clone() for k, v in method.importance.items()}
        fresh = {k: v - (terms[0][1].get(k, 0) if terms else 0) for k, v in before.items()}
        terms.append((method.weights(), fresh))
    method.start_task(TASKS[2])
    weights = method.trained()
    with torch.no_grad():
        for p in weights.values():
            p.add_(0.3 * torch.randn_like(p))
    ours = method.strength * quadratic_penalty(weights, method.anchor, method.importance)
    naive = sum(3.0 * quadratic_penalty(weights, anchor, fisher) for anchor, fisher in terms)
    names = list(method.anchor)
    for a, b in zip(
        torch.autograd.grad(ours, [weights[k] for k in names]),
        torch.autograd.grad(naive, [weights[k] for k in names]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(method.anchor[names[0]], terms[-1][0][names[0]])  # online EWC would have the newest


def test_online_decays_and_follows(toy_context: Make, images: Images, learn: Learn) -> None:
    method = EwcOnline(toy_context(options=EwcOnlineOptions(decay=0.5)))
    learn(method, TASKS[0], [images(LABELS[0])])
    first = {k: v.clone() for k, v in method.importance.items()}
    learn(method, TASKS[1], [images(LABELS[1])])
    plain = Ewc(toy_context())
    plain.load_state(*method.state())
    plain.anchor.clear()
    plain.importance.clear()
    plain.task_batches = lambda: iter([images(LABELS[1])])  # type: ignore[method-assign]
    plain.end_task(TASKS[1])
    for k, old in first.items():
        torch.testing.assert_close(method.importance[k], 0.5 * old + plain.importance[k])
    assert all(torch.equal(method.anchor[k], v) for k, v in method.weights().items())


def test_it_holds_what_it_protects(toy_context: Make, images: Images, learn: Learn) -> None:
    paid = {}
    for strength in (0.0, 10.0):
        method = Ewc(toy_context(options=EwcOptions(lambda_=strength)))
        torch.manual_seed(0)
        learn(method, TASKS[0], [images(LABELS[0])], epochs=5)
        anchor, importance = dict(method.anchor), dict(method.importance)
        learn(method, TASKS[1], [images(LABELS[1])], epochs=20, lr=0.02)
        paid[strength] = quadratic_penalty(method.trained(), anchor, importance).item()
    assert paid[10.0] < 0.5 * paid[0.0]


def test_pixels_too(toy_context: Make, images: Images, learn: Learn) -> None:
    method = Ewc(toy_context("semantic", train="full"))
    batch = images([1, 2]) | {"semantic": torch.tensor([1, 2])[:, None, None].expand(-1, 16, 16).clone()}
    learn(method, TASKS[0], [batch])
    assert any(k.startswith("network.") for k in method.importance)
    assert all((v >= 0).all() and v.isfinite().all() for v in method.importance.values())
    method.start_task(TASKS[1])
    assert method.extra_loss(batch, method.features(batch), torch.zeros(1)) is not None


def test_labels_from_the_model(toy_context: Make, images: Images, learn: Learn) -> None:
    sure = torch.full((3, 2, 2, 2), -50.0)
    sure[:, 1] = 50.0
    assert sample_labels(sure, torch.tensor([7, 9])).tolist() == torch.full((3, 2, 2), 9).tolist()
    torch.manual_seed(0)
    even = sample_labels(torch.zeros(4000, 2), torch.tensor([7, 9]))
    assert abs((even == 7).float().mean().item() - 0.5) < 0.03
    found = {}
    for fisher in ("empirical", "sampled"):
        method = Ewc(toy_context(options=EwcOptions(fisher=fisher)))
        torch.manual_seed(0)
        learn(method, TASKS[0], [images([1] * 8)], lr=0.0)  # the label is always 1, the model is not sure
        found[fisher] = method.importance["head.classifier.steps.0.bias"].sum().item()
    assert found["empirical"] != found["sampled"]


def test_state_comes_back(toy_context: Make, images: Images, learn: Learn) -> None:
    method = Ewc(toy_context())
    learn(method, TASKS[0], [images(LABELS[0])])
    other = Ewc(toy_context())
    other.load_state(*method.state())
    for a, b in ((method.anchor, other.anchor), (method.importance, other.importance)):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert other.stored_bytes() == method.stored_bytes() == 3 * 4 * method.trained_parameters()


def test_running_importance_is_that_of_the_loss_without_the_penalty(
    toy_context: Make, images: Images, learn: Learn
) -> None:
    """A twin goes through the same steps by hand: gradients of the base loss alone, in one mean over both tasks."""
    options = EwcOptions(importance="running", lambda_=5.0)
    method = Ewc(toy_context(options=options))
    seen: dict[str, torch.Tensor] = {}
    plain = method.loss

    def spy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = plain(logits, target)
        weights = method.trained()
        for k, g in zip(weights, torch.autograd.grad(loss, list(weights.values()), retain_graph=True), strict=True):
            seen[k] = 0.9 * g**2 + 0.1 * seen.get(k, torch.ones_like(g))
        return loss

    method.loss = spy  # type: ignore[method-assign]
    for task, labels in zip(TASKS[:2], LABELS[:2], strict=True):
        learn(method, task, [images(labels, seed=task.index)], epochs=3)
    assert seen.keys() == method.running.keys()
    for k, value in seen.items():
        torch.testing.assert_close(method.running[k], value, rtol=1e-4, atol=1e-6)
        spread = (value - value.min()) / (value.max() - value.min() + 1e-8)
        torch.testing.assert_close(method.importance[k], spread, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(method.anchor[k], v) for k, v in method.weights().items())
    other = Ewc(toy_context(options=options))
    other.load_state(*method.state())
    assert all(torch.equal(other.running[k], v) for k, v in method.running.items())
    assert other.stored_bytes() == method.stored_bytes() == 4 * 4 * method.trained_parameters()
    assert not EwcOnline(toy_context()).runs
