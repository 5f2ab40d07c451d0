"""iCaRL: herding against a naive twin, the loss by hand, the nearest mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from kc.methods.base import Context
from kc.methods.finetune.icarl import ICarl, herd
from kc.methods.finetune.losses import icarl_loss
from kc.types import Task

TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3, 4), (1, 2, 3, 4), ("3", "4"))]
Make = Callable[..., Context]
Images = Callable[..., dict[str, Any]]
Learn = Callable[..., None]


def test_herding_as_the_paper_writes_it() -> None:
    torch.manual_seed(0)
    x = F.normalize(torch.randn(15, 4, dtype=torch.float64), dim=1)
    mean = x.mean(0)
    chosen: list[int] = []
    for k in range(1, 8):
        left = [i for i in range(15) if i not in chosen]
        chosen.append(min(left, key=lambda i: (mean - (x[i] + x[chosen].sum(0)) / k).norm().item()))
    assert herd(x, 7) == chosen
    assert herd(x, 3) == chosen[:3]
    assert sorted(herd(x, 99)) == list(range(15))
    nearest = (x - mean).norm(dim=1).argsort()[:7].tolist()
    assert chosen != nearest  # what one would get without the sum of those already chosen


def test_loss_by_hand() -> None:
    logits, old = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[math.log(4.0)]])
    new = -math.log(0.5) - math.log(0.75)
    assert icarl_loss(logits, torch.tensor([1]), None).item() == pytest.approx(new, rel=1e-6)
    soft = -math.log(0.5) - math.log(0.75)  # the first column: 0.8 log 0.5 + 0.2 log 0.5
    assert icarl_loss(logits, torch.tensor([1]), old).item() == pytest.approx(soft, rel=1e-6)
    tilted = torch.tensor([[math.log(9.0), math.log(3.0)]])
    expected = -(0.8 * math.log(0.9) + 0.2 * math.log(0.1)) - math.log(0.75)
    assert icarl_loss(tilted, torch.tensor([1]), old).item() == pytest.approx(expected, rel=1e-6)
    z = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: icarl_loss(x, torch.tensor([3, 2, 0]), teacher), (z,))


def test_exemplars_are_the_first_of_the_herd_and_answer_by_their_mean(
    toy_context: Make, images: Images, learn: Learn
) -> None:
    method = ICarl(toy_context(train="full", exemplars=8))
    batches = [[images([1, 2] * 5, seed=1)], [images([3, 4] * 5, seed=2)]]
    learn(method, TASKS[0], batches[0])
    first = [e.sample_id for e in method.exemplars if e.classes == (1,)]
    assert len(first) == 4
    learn(method, TASKS[1], batches[1])
    kept = [e.sample_id for e in method.exemplars if e.classes == (1,)]
    assert kept == first[:2]  # the herd's order survives a smaller quota
    method.eval()
    with torch.no_grad():
        x = F.normalize(method.features(batches[1][0]).pooled, dim=1)
    rows = [i for i, label in enumerate(batches[1][0]["label"].tolist()) if label == 3]
    expected = [batches[1][0]["sample_id"][rows[i]] for i in herd(x[rows], 2)]
    assert [e.sample_id for e in method.exemplars if e.classes == (3,)] == expected
    test = images([1, 2, 3, 4] * 3, seed=7)
    scores = method.predict(test, (4, 1)).scores
    assert scores is not None
    with torch.no_grad():
        x = F.normalize(method.features(test).pooled, dim=1)
    for column, c in enumerate((4, 1)):
        held = torch.stack([e.image for e in method.exemplars if e.classes == (c,)]) / 255
        with torch.no_grad():
            held_x = F.normalize(method.network(held).pooled, dim=1)  # type: ignore[misc]
        torch.testing.assert_close(scores[:, column], x @ F.normalize(held_x.mean(0), dim=0))


def test_state_comes_back(toy_context: Make, images: Images, learn: Learn) -> None:
    method = ICarl(toy_context(exemplars=8))
    learn(method, TASKS[0], [images([1, 2] * 5, seed=1)])
    other = ICarl(toy_context(exemplars=8))
    other.load_state(*method.state())
    assert [e.sample_id for e in other.exemplars] == [e.sample_id for e in method.exemplars]
    assert all(torch.equal(method.means[c], other.means[c]) for c in (1, 2))


def test_a_class_without_a_training_image_is_never_answered(toy_context: Make, images: Images, learn: Learn) -> None:
    method = ICarl(toy_context(exemplars=8))
    learn(method, TASKS[0], [images([1] * 10, seed=1)])
    scores = method.predict(images([1, 2], seed=7), (2, 1)).scores
    assert scores is not None
    assert scores.argmax(1).tolist() == [1, 1]
