"""The loop of Avalanche for benchmarks/finetune.py, run by an interpreter that has avalanche-lib, timm and torch.

Arguments: file of images, batch size, steps, threads, 1 for replay. Prints the clock after each step as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.plugins import ReplayPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from torch import Tensor, nn
from torch.nn import functional as F

from kc.encoders.lite import Lite0


class Network(nn.Module):
    """Lite0 and a linear classifier."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.encoder = Lite0()
        self.head = nn.Linear(self.encoder.pooled_dim, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C)."""
        return self.head(F.normalize(self.encoder(x).pooled, dim=1) * self.encoder.pooled_dim**0.5)


class Clock(SupervisedPlugin):
    """Marks the end of every step, and ends after so many."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.marks = steps, [time.perf_counter()]

    def before_training_epoch(self, strategy: Any, **_: Any) -> None:
        """The first step starts here."""
        self.marks[0] = time.perf_counter()

    def after_training_iteration(self, strategy: Any, **_: Any) -> None:
        """One more step."""
        self.marks.append(time.perf_counter())
        if len(self.marks) > self.steps:
            strategy.stop_training()


def main(file: str, batch_size: str, steps: str, threads: str, replay: str) -> None:
    """Train on the first experience; with replay, on a second one whose buffer the first filled."""
    torch.set_num_threads(int(threads))
    data = torch.load(file, weights_only=True)
    tensors = (data["image"], data["label"])
    parts = [tensors] * (2 if replay == "1" else 1)
    stream = tensors_benchmark(train_tensors=parts, test_tensors=[tensors], task_labels=[0] * len(parts)).train_stream
    model = Network(int(data["label"].max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    clock = Clock(int(steps))
    plugins: list[Any] = [clock]
    if replay == "1":
        plugins.append(ReplayPlugin(mem_size=200, batch_size=int(batch_size), batch_size_mem=int(batch_size)))
    strategy = Naive(
        model=model, optimizer=optimizer, train_mb_size=int(batch_size), train_epochs=1, plugins=plugins, evaluator=None
    )
    for experience in stream:
        clock.marks = [time.perf_counter()]
        strategy.train(experience)
    print(json.dumps(clock.marks))


if __name__ == "__main__":
    main(*sys.argv[1:])
