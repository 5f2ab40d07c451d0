"""What the Trainer is told, seen in the weights: clipping, accumulation, the average, the best epoch."""

from __future__ import annotations

from typing import Any, cast

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kc.errors import DivergedError
from kc.stream.callbacks import BestWeights, EndTask, WeightAverage
from kc.stream.forgetting_callback import Evaluator
from kc.stream.loop import quiet_lightning
from kc.stream.progress import CostMeter
from kc.types import Task


class Falling(L.LightningModule):
    """loss = weight * x, so that SGD with rate 1 takes x off the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.seen: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight * batch.mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(self.weight.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=1.0)


def fit(callback: L.Callback, epochs: int = 1, **more: Any) -> Falling:
    quiet_lightning()
    module = Falling()
    data = DataLoader(cast(Any, torch.tensor([1.0, 2.0, 4.0, 8.0])), batch_size=1)
    L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback], **more,
    ).fit(module, data)  # fmt: skip
    return module


def test_the_average_of_the_path() -> None:
    module = fit(WeightAverage(0.5))
    assert module.seen == [-1, -3, -7, -15]
    average = 0.0
    for value in module.seen:
        average = 0.5 * average + 0.5 * value
    assert module.weight.item() == average


def test_the_average_follows_steps_not_batches() -> None:
    module = fit(WeightAverage(0.5), accumulate_grad_batches=2)
    assert module.seen == [0, -1.5, -1.5, -7.5]
    assert module.weight.item() == 0.5 * (0.5 * -1.5) + 0.5 * -7.5


class Script:
    """Says what it was told to say, epoch after epoch."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = iter(scores)

    def validation(self, method: Any, task: int, device: Any) -> float:
        return next(self.scores)


@pytest.mark.parametrize(
    ("scores", "patience", "best", "ran"),
    [
        ([0.1, 0.5, 0.5, 0.4, 0.3], 2, 2, 4),  # a tie is no better; two epochs later it stops
        ([0.1, 0.2, 0.3, 0.4, 0.5], 1, 5, 5),
        ([float("nan")] * 5, 3, 3, 3),  # nothing was ever better: the weights stay as they are
    ],
)
def test_the_best_epoch_is_what_remains(scores: list[float], patience: int, best: int, ran: int) -> None:
    callback = BestWeights(cast(Evaluator, Script(scores)), 0, patience)
    module = fit(callback, epochs=5)
    assert len(callback.scores) == ran
    assert module.weight.item() == -15 * best


def test_weights_that_are_nan_when_a_task_ends_are_not_scored() -> None:
    module = Falling()
    module.name, module.trained_parameters = "finetune", lambda: 1  # type: ignore[assignment, method-assign]
    with torch.no_grad():
        module.weight.fill_(torch.inf)
    with pytest.raises(DivergedError, match="finetune: weight is not finite at the end of task 1"):
        EndTask(Task(0, (0,), (0,), ("a",)), CostMeter()).on_fit_end(cast(Any, None), module)
