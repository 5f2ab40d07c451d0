"""The reservoir, and the methods that replay from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kc.errors import KcError
from kc.methods.base import Context
from kc.methods.finetune.der import DerOptions, DerPlusPlus
from kc.methods.finetune.er import Er, Reservoir, as_batch
from kc.methods.finetune.losses import logit_distance
from kc.types import Task

TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",))]
Make = Callable[..., Context]
Images = Callable[..., dict[str, Any]]
Learn = Callable[..., None]


def test_every_place_of_the_stream_is_kept_equally_often() -> None:
    torch.manual_seed(0)
    counts = torch.zeros(12)
    stream = {"image": torch.zeros(12, 3, 1, 1), "label": torch.arange(12), "sample_id": list("abcdefghijkl")}
    for _ in range(2000):
        reservoir = Reservoir(3)
        reservoir.offer_batch(stream)
        assert len(reservoir) == 3
        counts[[s.label for s in reservoir.items]] += 1
    expected = 2000 * 3 / 12
    assert ((counts - expected).abs() < 5 * expected**0.5).all()  # 5 standard deviations of a count of 500


def test_what_is_drawn_is_what_was_offered(images: Images) -> None:
    reservoir, batch = Reservoir(8), images([1, 2, 2, 1])
    reservoir.offer_batch(batch, torch.arange(8.0).view(4, 2))
    again = as_batch(reservoir.items, batch)
    assert torch.equal(again["label"], batch["label"])
    assert (again["image"] - batch["image"]).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(torch.stack([s.logits for s in reservoir.items]), torch.arange(8.0).view(4, 2))


def test_er_trains_on_as_many_stored_images(toy_context: Make, images: Images, learn: Learn) -> None:
    method = Er(toy_context(exemplars=6))
    learn(method, TASKS[0], [images([1, 2, 1, 2], seed=s) for s in range(3)])
    assert method.buffer.seen == 12
    assert len(method.buffer) == 6
    seen: list[int] = []
    method.loss_on = lambda b: seen.append(b["label"].tolist()) or torch.zeros(())  # type: ignore[method-assign, func-returns-value]
    method.start_task(TASKS[1])
    method.training_step(images([3, 3, 3], seed=9), 0)
    assert seen[0][:3] == [3, 3, 3]
    assert len(seen[0]) == 6
    assert set(seen[0][3:]) <= {1, 2}
    assert method.buffer.seen == 15


def test_logit_distance_by_hand_and_over_what_was_known() -> None:
    logits = torch.tensor([[1.0, 2.0, 9.0], [0.0, 0.0, 4.0]])
    stored = torch.tensor([[0.0, 4.0, torch.nan], [1.0, torch.nan, torch.nan]])
    assert logit_distance(logits, stored).item() == pytest.approx(((1 + 4) / 2 + 1) / 2)
    assert logit_distance(logits, stored[:, :2]).item() == pytest.approx(1.75)
    z = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: logit_distance(x, stored.double()), (z,))


def test_der_adds_both_terms(toy_context: Make, images: Images, learn: Learn) -> None:
    batch = images([3, 3, 3], seed=5)
    method = DerPlusPlus(toy_context(exemplars=5, options=DerOptions(alpha=0.7, beta=0.3)))
    learn(method, TASKS[0], [images([1, 2, 1, 2, 1])], epochs=3)
    assert method.buffer.seen == 15  # offered in every epoch, with the logits of that step
    method.start_task(TASKS[1])
    torch.manual_seed(3)
    first, second = method.buffer.draw(3), method.buffer.draw(3)
    now = method.logits(method.features(as_batch(first, batch)))[:, :2]
    distance = (now - torch.stack([s.logits for s in first])).square().mean()
    again = as_batch(second, batch)
    ce = method.loss(method.logits(method.features(again)), again["label"])
    base = method.loss(method.logits(method.features(batch)), batch["label"])
    torch.manual_seed(3)
    torch.testing.assert_close(method.loss_on(batch), base + 0.7 * distance + 0.3 * ce)


@pytest.mark.parametrize("cls", [Er, DerPlusPlus])
def test_a_budget_below_the_classes_is_refused(cls: type[Er], toy_context: Make) -> None:
    method = cls(toy_context(exemplars=2))
    method.start_task(TASKS[0])
    with pytest.raises(KcError, match="2 exemplars for 3 classes"):
        method.start_task(TASKS[1])


@pytest.mark.parametrize("cls", [Er, DerPlusPlus])
def test_state_comes_back(cls: type[Er], toy_context: Make, images: Images, learn: Learn) -> None:
    method = cls(toy_context(exemplars=5))
    for task, labels in zip(TASKS, ([1, 2, 1, 2], [3, 3, 3]), strict=True):
        learn(method, task, [images(labels, seed=task.index)], epochs=2)
    other = cls(toy_context(exemplars=5))
    other.load_state(*method.state())
    assert other.buffer.seen == method.buffer.seen
    for a, b in zip(method.buffer.items, other.buffer.items, strict=True):
        assert (a.sample_id, a.label) == (b.sample_id, b.label)
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.logits, b.logits)
    assert other.stored_bytes() == method.stored_bytes()
