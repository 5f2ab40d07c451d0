"""The best weights of a task by the validation split, and an end where they get no better."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import lightning as L
import torch
from torch import Tensor

from kc.methods.base import ContinualMethod
from kc.stream.forgetting_callback import Evaluator


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
        """Score, and keep the weights where the score is the best so far."""
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
        """Back to the best weights."""
        with torch.no_grad():
            for name, value in _weights(pl_module):
                if name in self._weights:
                    value.copy_(self._weights[name])


def _weights(module: L.LightningModule) -> Iterator[tuple[str, Tensor]]:
    """Weights and running statistics."""
    yield from module.named_parameters()
    yield from module.named_buffers()
