"""Optimisers and schedules by name; the defaults are AdamW and half a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from kc.errors import KcError
from kc.methods.base import Context
from kc.methods.finetune.module import make_optimizer, make_schedule
from kc.methods.finetune.naive import Finetune
from kc.methods.training_options import TrainingOptions
from kc.spec import at_task
from kc.types import Task

STEPS = 10


def rates(schedule: str) -> list[float]:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer([{"params": [weight], "lr": 0.5}], TrainingOptions(optimizer="sgd"))
    made = make_schedule(optimizer, TrainingOptions(schedule=schedule), STEPS)
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if made is not None:
            made.step()
    return found


def test_rates_by_formula() -> None:
    assert rates("constant") == [0.5] * STEPS
    assert rates("poly") == pytest.approx([0.5 * (1 - t / STEPS) ** 0.9 for t in range(STEPS)])
    assert rates("cosine") == pytest.approx([0.25 * (1 + math.cos(math.pi * t / STEPS)) for t in range(STEPS)])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_one_step_by_formula(name: str) -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    config = TrainingOptions(optimizer=name, weight_decay=0.1, momentum=0.5)
    optimizer = make_optimizer([{"params": [weight], "lr": 0.01}], config)
    steps = []
    for _ in range(2):
        before = weight.item()
        weight.grad = torch.tensor([3.0])
        optimizer.step()
        steps.append(weight.item() - before)
    if name == "sgd":
        first = 3.0 + 0.1 * 2.0
        second = 3.0 + 0.1 * (2.0 + steps[0]) + 0.5 * first
        assert steps == pytest.approx([-0.01 * first, -0.01 * second], rel=1e-4)
    else:
        decay = 0.01 * 0.1 * 2.0 if name == "adamw" else 0.0  # Adam's own step is lr for any constant gradient
        assert steps[0] == pytest.approx(-0.01 - decay, rel=1e-3)


def test_values_a_task() -> None:
    assert [at_task("60,30,5", t) for t in range(5)] == [60, 30, 5, 5, 5]
    assert [at_task(2e-3, t) for t in range(2)] == [2e-3, 2e-3]
    with pytest.raises(ValueError, match="many"):
        at_task("many", 0)


def test_defaults_and_rates_of_a_method(toy_context: Callable[..., Context]) -> None:
    method = Finetune(toy_context(train="full", lr="0.01,0.001", encoder_lr=0.5))
    method._trainer = cast(Any, SimpleNamespace(estimated_stepping_batches=7))
    for t, rate in ((0, 0.01), (1, 0.001)):
        method.start_task(Task(t, (t + 1,), tuple(range(1, t + 2)), (str(t),)))
        made = method.configure_optimizers()
        assert type(made["optimizer"]) is torch.optim.AdamW
        assert type(made["lr_scheduler"]["scheduler"]) is torch.optim.lr_scheduler.CosineAnnealingLR
        assert [g["initial_lr"] for g in made["optimizer"].param_groups] == [rate, rate * 0.5]


def test_a_loss_that_is_not_finite_names_step_and_task(
    toy_context: Callable[..., Context], images: Callable[..., dict[str, Any]]
) -> None:
    method = Finetune(toy_context())
    method.start_task(Task(2, (1,), (1,), ("1",)))
    with torch.no_grad():
        method.classifier.steps[0].weight.fill_(torch.nan)
    with pytest.raises(KcError, match="the loss is nan at step 0 of task 3"):
        method.training_step(images([1, 1]), 0)


@pytest.mark.filterwarnings("ignore:.*in eval mode", "ignore:.*LeafSpec")
@pytest.mark.parametrize(("optimizer", "precision"), [("adamw", "32-true"), ("sgd", "32-true"), ("adam", "bf16-mixed")])
def test_every_step_has_gradients_of_its_own(
    optimizer: str, precision: str, toy_context: Callable[..., Context], images: Callable[..., dict[str, Any]]
) -> None:
    """Three batches, two a step and the last alone, for two epochs, beside a plain loop; leftovers do not count."""
    batches = [images([1, 2, 1], seed=t) for t in range(3)]
    config = {"optimizer": optimizer, "lr": 0.1, "schedule": "constant", "train": "full", "precision": precision}
    method, twin = (Finetune(toy_context(**config)) for _ in range(2))
    for one in (method, twin):
        torch.manual_seed(0)
        one.start_task(Task(0, (1, 2), (1, 2), ("1", "2")))
    for weight in method.trained().values():
        weight.grad = torch.ones_like(weight)
    data = DataLoader(cast(Any, batches), batch_size=None, shuffle=False)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accumulate_grad_batches=2, precision=cast(Any, precision), gradient_clip_val=0.5,
    )  # fmt: skip
    trainer.fit(method, data)
    twin.train()
    learner = make_optimizer(twin.parameter_groups(0.1), TrainingOptions(optimizer=optimizer))
    for _ in range(2):
        for step in ((0, 1), (2,)):
            learner.zero_grad()
            for i in step:
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                    loss = twin.loss_on(batches[i]) / 2
                loss.backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            learner.step()
    # A step moves a weight by up to 0.1; a gradient in bfloat16 may be rounded the other way in one of the two runs.
    atol = 5e-3 if precision == "bf16-mixed" else 1e-5
    for name, weight in twin.trained().items():
        torch.testing.assert_close(method.get_parameter(name), weight, rtol=1e-4, atol=atol)
        assert method.get_parameter(name).grad is None


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", False), ("16-mixed", False)])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_kernels(name: str, precision: str, fused: bool) -> None:
    """Lightning clips no gradients of a fused optimiser in mixed precision."""
    weight = torch.nn.Parameter(torch.zeros(1))
    options = TrainingOptions(optimizer=name, precision=precision)
    assert make_optimizer([{"params": [weight], "lr": 0.5}], options).defaults["fused"] is fused
