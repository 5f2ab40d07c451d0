"""ECLIPSE put together: what is old stays to the last bit, and the prompts learn the new class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kc.methods.base import Context
from kc.methods.finetune.eclipse import Eclipse, EclipseOptions
from kc.methods.finetune.mask_head import MaskLoss, mask_sets
from kc.types import HIDDEN, Task

Make = Callable[..., Context]
TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",)), Task(2, (4,), (1, 2, 3, 4), ("4",))]
COLORS = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]])


def halves(left: int, right: int, shown: tuple[int, ...]) -> dict[str, Any]:
    """Two images of 32 x 32 whose halves are of two classes, the second mirrored; only `shown` classes are labelled."""
    labels = torch.full((2, 32, 32), right)
    labels[0, :, :16] = left
    labels[1, :, 16:] = left
    seen = torch.isin(labels, torch.tensor(shown))
    return {
        "image": COLORS[labels].movedim(-1, 1),
        "sample_id": ["a", "b"],
        "semantic": torch.where(seen, labels, HIDDEN),
        "original_size": [(32, 32)] * 2,
    }


@pytest.mark.parametrize("train", ["head", "full"])
def test_after_the_first_task_the_old_stays_to_the_last_bit(
    train: str, toy_context: Make, learn: Callable[..., None]
) -> None:
    method = Eclipse(toy_context("semantic", train=train, options=EclipseOptions(prompts=4)))
    learn(method, TASKS[0], [halves(1, 2, (1, 2))], lr=1e-3)
    images = halves(1, 3, (1, 3))
    first = method.eval().head.answers(images, (1, 2))
    for task in TASKS[1:]:
        before = {k: v.clone() for k, v in method.state()[0].items()}
        learn(method, task, [halves(task.class_ids[0], 1, task.class_ids)], lr=1e-2)
        after = method.state()[0]
        assert all(torch.equal(after[k], v) for k, v in before.items())
        assert {k for k in after if k not in before} == set(method.trained())
        assert method.trained_parameters() < 40_000
    # The old queries see the masks that they saw; other steps' classes are all that changed in what they answer.
    now = method.eval().head.answers(images, (1, 2))
    torch.testing.assert_close(now[1][:, :20], first[1])
    assert now[1].shape[1] == 20 + 2 * 4


def test_every_part_of_a_step_learns(toy_context: Make, learn: Callable[..., None]) -> None:
    method = Eclipse(toy_context("semantic", options=EclipseOptions(prompts=4)))
    learn(method, TASKS[0], [halves(1, 2, (1, 2))], lr=1e-3)
    method.start_task(TASKS[1])
    before = {k: v.detach().clone() for k, v in method.trained().items()}
    learn_more = torch.optim.SGD(method.trained().values(), lr=1e-2)
    method.on_train_start()
    assert not method.head.decoder.training
    method.loss_on(halves(3, 1, (3,))).backward()
    learn_more.step()
    assert {k.split(".")[1] for k in before} == {"prompts", "classifier"}
    assert [k for k, v in method.trained().items() if torch.equal(v, before[k])] == []


def test_the_loss_is_of_the_new_queries_and_the_new_class_alone(toy_context: Make, learn: Callable[..., None]) -> None:
    method = Eclipse(toy_context("semantic", options=EclipseOptions(prompts=4)))
    learn(method, TASKS[0], [halves(1, 2, (1, 2))], lr=1e-3)
    method.start_task(TASKS[1])
    method.eval()
    batch = halves(3, 1, (1, 3))
    pixels = method.head.decoder.pixels(method.features(batch))
    queries = method.head.prompts[0](method.head.decoder, pixels)
    classes = []
    for state in queries.states:
        old = method.classifier(state)
        classes.append(torch.cat([method.head.prompts[0].no_object(state), old[..., 1:]], -1))
    criterion = MaskLoss(method.head.decoder.model.config, 3, focal=True, class_weight=10.0)
    torch.manual_seed(0)
    expected = criterion(classes, queries, mask_sets(batch, {3: 3}))
    torch.manual_seed(0)
    assert method.loss_on(batch).item() == pytest.approx(expected.item(), rel=1e-6)


def test_new_classes_start_as_no_object(toy_context: Make) -> None:
    method = Eclipse(toy_context("semantic"))
    method.start_task(TASKS[0])
    method.start_task(TASKS[1])
    state = torch.randn(2, 5, 64)
    z = method.classifier(state)
    torch.testing.assert_close(z[..., 3], z[..., 0])
    torch.testing.assert_close(method.head.classes(state, 1)[..., 0], z[..., 0])


def test_it_goes_on_from_its_state(toy_context: Make, learn: Callable[..., None]) -> None:
    method = Eclipse(toy_context("panoptic", options=EclipseOptions(prompts=4)))
    learn(method, TASKS[0], [halves(1, 2, (1, 2))], lr=1e-3)
    learn(method, TASKS[1], [halves(3, 1, (3,))], lr=1e-3)
    again = Eclipse(toy_context("panoptic", options=EclipseOptions(prompts=4)))
    again.load_state(*method.state())
    images = halves(3, 2, (2, 3))
    one, two = (m.eval().predict(images, (1, 2, 3)) for m in (method, again))
    for a, b in zip([*one.semantic, *one.panoptic], [*two.semantic, *two.panoptic], strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.trained().keys() == method.trained().keys()
    assert again.stored_bytes() == method.stored_bytes()


def test_it_learns_a_class_and_keeps_the_old_ones(toy_context: Make) -> None:
    """Both steps see the same three pairs of colours, each with its own labels alone, so that all can be told apart."""
    torch.manual_seed(0)
    method = Eclipse(toy_context("semantic", train="full", options=EclipseOptions(prompts=4, focal=1.0)))
    pairs = ((1, 2), (3, 1), (3, 2))
    for task, steps, lr in ((TASKS[0], 80, 3e-3), (TASKS[1], 60, 1e-2)):
        method.start_task(task)
        method.on_train_start()
        parts = [halves(*pair, task.class_ids) for pair in pairs]
        batch = {k: torch.cat([part[k] for part in parts]) for k in ("image", "semantic")}
        optimizer = torch.optim.AdamW(method.trained().values(), lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            method.loss_on(batch).backward()
            optimizer.step()
        method.end_task(task)
    method.eval()
    for pair in pairs:
        images = halves(*pair, (1, 2, 3))
        found = method.predict(images, (1, 2, 3)).semantic
        right = [(torch.from_numpy(m) == t).float().mean() for m, t in zip(found, images["semantic"], strict=True)]
        assert min(right) > 0.9


def test_the_factor_of_its_focal_loss_is_as_given(toy_context: Make) -> None:
    """Only the term of classes falls with the factor, and by as much."""
    losses = []
    for factor in (50.0, 5.0, 0.5):
        method = Eclipse(toy_context("semantic", options=EclipseOptions(focal=factor)))
        torch.manual_seed(0)
        method.start_task(TASKS[0])
        torch.manual_seed(1)
        losses.append(method.eval().loss_on(halves(1, 2, (1, 2))).item())
    assert losses[0] - losses[1] == pytest.approx(10 * (losses[1] - losses[2]), rel=1e-3)
    assert losses[0] > 2 * losses[1]
