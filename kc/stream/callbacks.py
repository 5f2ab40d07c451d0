"""What happens along the training of a task: average and best weights, memory, random state, end of the task."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor

from kc.errors import DivergedError
from kc.methods.base import Remembers
from kc.methods.module import ContinualMethod
from kc.stream.forgetting_callback import Evaluator
from kc.stream.progress import CostMeter
from kc.types import Task


class WeightAverage(L.Callback):
    """average <- decay * average + (1 - decay) * weight after each optimiser step; it replaces the weights at the end.

    Only what gradients change is averaged. Lightning's own callback copies the whole module, and with it the feature
    cache and the memory that a method shares with others.

    Args:
        decay: between 0 and 1.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.average = {k: p.detach().clone() for k, p in pl_module.named_parameters() if p.requires_grad}
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        for name, value in self.average.items():
            value.lerp_(pl_module.get_parameter(name).detach(), 1 - self.decay)

    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, value in self.average.items():
            pl_module.get_parameter(name).copy_(value)


class BestWeights(L.Callback):
    """After each epoch: score the task on its validation images; at the end: go back to the best epoch.

    Of equal scores the earlier one stays. An undefined score counts as no better.

    Args:
        patience: epochs without a better score after which the task ends.
    """

    def __init__(self, evaluator: Evaluator, task: int, patience: int) -> None:
        self.evaluator, self.task, self.patience = evaluator, task, patience
        self.best = -math.inf
        self.scores: list[float] = []
        self._weights: dict[str, Tensor] = {}
        self._since = 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        score = self.evaluator.validation(cast(ContinualMethod, pl_module), self.task, pl_module.device)
        self.scores.append(score)
        if score > self.best:
            self.best, self._since = score, 0
            self._weights = {k: v.detach().clone() for k, v in _weights(pl_module)}
            return
        self._since += 1
        if self._since >= self.patience:
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with torch.no_grad():
            for name, value in _weights(pl_module):
                if name in self._weights:
                    value.copy_(self._weights[name])


def _weights(module: L.LightningModule) -> Iterator[tuple[str, Tensor]]:
    """Weights and running statistics."""
    yield from module.named_parameters()
    yield from module.named_buffers()


class MemoryCallback(L.Callback):
    """Has a method that remembers store what it saw during a task, and commit it once, when the task ends.

    A run that is killed within a task leaves the memory as the last task left it. Of several processes, rank 0 alone
    writes; the others open what it committed.
    """

    def __init__(self, task: int) -> None:
        self.task = task
        self.new_rows = 0
        self._committed = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if isinstance(pl_module, Remembers):
            pl_module.store(self.task, trainer.world_size)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Commit the task, also when it brought no row: the version must exist to be replayed."""
        if isinstance(pl_module, Remembers) and not self._committed:
            self.new_rows = pl_module.commit(self.task, trainer.world_size)
            self._committed = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A task without an image, of which only names are known, never starts to train: its version is made here."""
        self.on_train_end(trainer, pl_module)


class RestoreRngState(L.Callback):
    """Gives the global generator back as it was before the Trainer: joining processes draws from it."""

    def __init__(self) -> None:
        self.state = torch.get_rng_state()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.set_rng_state(self.state)


class EndTask(L.Callback):
    """Closes the task and stops the clock: evaluation is not part of what a method costs."""

    def __init__(self, task: Task, cost: CostMeter) -> None:
        self.task, self.cost = task, cost

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Learning is over. Raises DivergedError where it left weights that are NaN or infinite, which would be scored
        as if they had answered."""
        method = cast(ContinualMethod, pl_module)
        for name, value in _weights(pl_module) if method.trained_parameters() else ():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise DivergedError(
                    f"{method.name}: {name} is not finite at the end of task {self.task.index + 1}; try a smaller --lr"
                )
        method.end_task(self.task)
        self.cost.stop()
