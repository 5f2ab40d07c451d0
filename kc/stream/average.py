"""An exponential average of the weights along the steps of a task."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor


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
        """The average starts at the weights."""
        self.average = {k: p.detach().clone() for k, p in pl_module.named_parameters() if p.requires_grad}
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Follow the weights where the optimiser moved them."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        weights = dict(pl_module.named_parameters())
        for name, value in self.average.items():
            value.lerp_(weights[name].detach(), 1 - self.decay)

    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The average becomes the weights."""
        weights = dict(pl_module.named_parameters())
        for name, value in self.average.items():
            weights[name].copy_(value)
