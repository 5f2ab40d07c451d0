"""The best weights of a task by the validation split, and an end where they get no better."""

from __future__ import annotations

import math
from typing import Any, cast

import lightning as L
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
            self._weights = {k: v.detach().clone() for k, v in pl_module.state_dict().items()}
            return
        self._since += 1
        if self._since >= self.patience:
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Back to the best weights."""
        if self._weights:
            cast(Any, pl_module).load_state_dict(self._weights)
