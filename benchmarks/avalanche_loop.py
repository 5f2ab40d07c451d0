"""The loop of Avalanche for benchmarks/finetune.py; needs avalanche-lib beside what kc needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.training.plugins import ReplayPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from torch import nn
from torch.utils.data import Dataset


class Step(SupervisedPlugin):
    """Calls `step` at the end of every step once it is `on`."""

    def __init__(self, step: Callable[[], None], on: bool) -> None:
        super().__init__()
        self.step, self.on = step, on

    def after_training_iteration(self, strategy: Any, **_: Any) -> None:
        """One more step."""
        if self.on:
            self.step()


def train(model: nn.Module, data: Dataset[Any], batch_size: int, replay: int, step: Callable[[], None]) -> None:
    """Train on `data`, whose items are (image, label) and which has `targets`, for ever; with `replay` > 0 on a second
    experience of it, with as many images in a buffer that the first one filled.
    """
    parts = [data] * (2 if replay else 1)
    stream = list(dataset_benchmark(parts, [data], train_transform=None, eval_transform=None).train_stream)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    count = Step(step, on=not replay)
    plugins: list[Any] = [count]
    if replay:
        plugins.append(ReplayPlugin(mem_size=replay, batch_size=batch_size, batch_size_mem=batch_size))
    strategy = Naive(
        model=model, optimizer=optimizer, train_mb_size=batch_size, train_epochs=1, plugins=plugins, evaluator=None
    )
    if replay:
        strategy.train(stream[0])
        count.on = True
    strategy.train_epochs = 10**6
    strategy.train(stream[-1])
