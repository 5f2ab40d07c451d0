"""What every segmentation method does: the same first task, an old model to compare with, a state that returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kc.errors import KcError
from kc.methods.base import Context
from kc.methods.finetune.ewc import Ewc, EwcOnline
from kc.methods.finetune.ilt import Ilt
from kc.methods.finetune.losses import IGNORED, at_loss, pixel_distillation
from kc.methods.finetune.lwf import Lwf, LwfOptions
from kc.methods.finetune.mib import Mib
from kc.methods.finetune.module import GradientMethod
from kc.methods.finetune.naive import Finetune
from kc.methods.finetune.per_pixel import PerPixel
from kc.methods.finetune.plop import Plop
from kc.methods.finetune.ssul import Ssul
from kc.types import HIDDEN, VOID, Task

TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",)), Task(2, (4,), (1, 2, 3, 4), ("4",))]
METHODS = [Ilt, Mib, Plop, Ssul]
SHARED: list[type[GradientMethod]] = [*METHODS, Lwf, Ewc, EwcOnline]
Make = Callable[..., Context]
Learn = Callable[..., None]


def batch(ids: list[int], seed: int = 0) -> dict[str, Any]:
    """Two images of 16 x 16 whose labels are drawn from `ids`, in blocks of 2 x 2."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.tensor(ids)[torch.randint(len(ids), (2, 8, 8), generator=generator)]
    return {
        "image": torch.rand(2, 3, 16, 16, generator=generator),
        "sample_id": [f"{seed}-{i}" for i in range(2)],
        "semantic": blocks.repeat_interleave(2, 1).repeat_interleave(2, 2),
        "original_size": [(16, 16), (16, 16)],
    }


def ready(method: GradientMethod, images: dict[str, Any]) -> None:
    """What the trainer does before the first step of a task."""
    method.task_batches = lambda: iter([images])  # type: ignore[method-assign]
    method.on_train_start()


def learned(cls: type[GradientMethod], context: Context, n_tasks: int, learn: Learn) -> GradientMethod:
    method = cls(context)
    for task in TASKS[:n_tasks]:
        learn(method, task, [batch([HIDDEN, VOID, *task.class_ids], task.index)], epochs=3, lr=0.01)
    return method


@pytest.mark.parametrize("cls", [Ilt, Mib, Plop])
def test_the_first_task_is_that_of_finetune(cls: type[PerPixel], toy_context: Make) -> None:
    losses = []
    for kind in (Finetune, cls):
        context = toy_context("semantic")
        torch.manual_seed(1)
        method = kind(context)
        method.start_task(TASKS[0])
        losses.append(method.loss_on(batch([HIDDEN, 1, 2])).item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("train", ["head", "full"])
@pytest.mark.parametrize("cls", SHARED)
def test_three_tasks_and_back_from_a_checkpoint(
    cls: type[PerPixel], train: str, toy_context: Make, learn: Learn
) -> None:
    """Resuming after task 1 learns task 2 to the bit as if nothing had happened."""
    context = toy_context("semantic", train=train)
    method = learned(cls, context, 2, learn)
    again = cls(context)
    again.load_state(*method.state())
    third = batch([HIDDEN, 4], 7)
    results = []
    for model in (method, again):
        torch.manual_seed(2)
        learn(model, TASKS[2], [third], epochs=2, lr=0.01)
        results.append(model.state())
    assert results[0][1] == results[1][1]
    assert results[0][0].keys() == results[1][0].keys()
    assert all(torch.equal(v, results[1][0][k]) for k, v in results[0][0].items())
    assert method.stored_bytes() == again.stored_bytes()
    method.eval()
    answer = method.predict(third, (1, 2, 3, 4))
    assert set(answer.semantic[0].ravel().tolist()) <= {1, 2, 3, 4}


@pytest.mark.parametrize("cls", METHODS)
def test_the_old_model_holds_the_new_one(cls: type[PerPixel], toy_context: Make, learn: Learn) -> None:
    """Far from the old model, the gradient of the loss points back: it is not that of the labels alone."""
    context = toy_context("semantic")
    method = learned(cls, context, 1, learn)
    method.start_task(TASKS[1])
    images = batch([HIDDEN, 3], 1)
    ready(method, images)
    column = method.classifier.steps[0].bias
    with torch.no_grad():
        method.classifier.steps[1].bias += 3
    method.loss_on(images).backward()
    plain = Finetune(context)
    plain.start_task(TASKS[0])
    plain.start_task(TASKS[1])
    plain.load_state_dict({k: v for k, v in method.state_dict().items() if not k.startswith("previous.")})
    plain.loss_on(images).backward()
    assert column.grad is not None
    assert not torch.allclose(column.grad, plain.classifier.steps[0].bias.grad)


@pytest.mark.parametrize("cls", METHODS)
def test_classification_is_refused(cls: type[PerPixel], toy_context: Make) -> None:
    with pytest.raises(KcError, match=f"{cls.name}.*classification"):
        cls(toy_context("classification"))


def test_what_may_hide_an_old_class(toy_context: Make) -> None:
    target = torch.tensor([[[0, 1, IGNORED]]])
    assert Mib(toy_context("semantic")).unlabelled(target).tolist() == [[[True, False, False]]]
    panoptic = Mib(toy_context("panoptic", background=True))
    assert panoptic.unlabelled(target).tolist() == [[[True, False, True]]]


def test_levels_are_compared_only_where_they_learn(toy_context: Make) -> None:
    images = batch([HIDDEN, 1])
    for train, n in (("head", 0), ("full", 2)):
        method = Mib(toy_context("semantic", train=train))
        method.start_task(TASKS[0])
        maps = method.maps(method.head, method.features(images), method.network)
        assert len(maps.levels) == n
        assert maps.logits.shape[-2:] == (4, 4)
        assert maps.pixels.shape == (2, 3, 8, 8)


def grads(loss: Tensor, method: GradientMethod) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, [p for p in method.parameters() if p.requires_grad], allow_unused=True)
    names = [k for k, p in method.named_parameters() if p.requires_grad]
    return {k: g for k, g in zip(names, found, strict=True) if g is not None}


@pytest.mark.parametrize("cls", METHODS)
def test_no_gradient_reaches_the_old_model(cls: type[PerPixel], toy_context: Make, learn: Learn) -> None:
    method = learned(cls, toy_context("semantic", train="full"), 1, learn)
    method.start_task(TASKS[1])
    images = batch([HIDDEN, 3], 1)
    ready(method, images)
    assert not any(k.startswith("previous.") for k in grads(method.loss_on(images), method))


def test_lwf_distils_every_pixel(toy_context: Make, learn: Learn) -> None:
    method = learned(Lwf, toy_context("semantic", options=LwfOptions(pixel_kd=3.0)), 1, learn)
    method.start_task(TASKS[1])
    images = batch([HIDDEN, 3], 1)
    features = method.features(images)
    logits = method.logits(features)
    assert method.previous is not None
    old = method.previous.logits(features)
    extra = method.extra_loss(images, features, logits)
    torch.testing.assert_close(extra, 3 * pixel_distillation(at_loss(logits, 2), at_loss(old, 2)))


def test_importance_of_maps_is_scaled_to_one(toy_context: Make, learn: Learn) -> None:
    method = learned(Ewc, toy_context("semantic"), 1, learn)
    assert isinstance(method, Ewc)
    assert method.strength == 500
    assert Ewc(toy_context("classification")).strength == 100
    assert all(v.max() == 1 for v in method.importance.values())
