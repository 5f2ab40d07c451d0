"""The DataModule inside a loop of Avalanche: `python examples/avalanche_loop.py` (extra `avalanche`).

Tasks, images and order are those of kc; strategy, optimiser and metrics are Avalanche's: naive training and replay.
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.benchmarks.scenarios import CLScenario, benchmark_from_datasets, with_classes_timeline
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import Naive
from torch import Tensor, nn

from kc.data.datamodule import IncrementalDataModule
from kc.data.dataset import LabelledImages
from kc.types import SplitName


class Pairs(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images as Avalanche takes them: (image, label), and `targets`, which are known without reading an image."""

    def __init__(self, images: LabelledImages) -> None:
        self.images = images
        self.targets = images.labels.tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.images[index]
        return item["image"], item["label"]


def scenario(data: IncrementalDataModule) -> CLScenario:
    """The stream of `data` as a benchmark of Avalanche: an experience a task."""

    def parts(split: SplitName) -> list[Any]:
        return [as_classification_dataset(Pairs(data.dataset(split, task.index))) for task in data.tasks]

    return with_classes_timeline(benchmark_from_datasets(train=parts("train"), test=parts("test")))


def learn(data: IncrementalDataModule, replay: int = 0, epochs: int = 5) -> tuple[nn.Module, dict[str, float]]:
    """A small network after all tasks, and what Avalanche measured last. `replay`: images its buffer keeps."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3 * 16 * 16, 128), nn.ReLU(), nn.Linear(128, len(data.class_ids))
    )
    strategy = Naive(
        model=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.05),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=data.batch_size,
        train_epochs=epochs,
        eval_mb_size=64,
        plugins=[ReplayPlugin(replay)] if replay else [],
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=[]),
    )
    benchmark = scenario(data)
    measured: dict[str, float] = {}
    for experience in benchmark.train_stream:
        strategy.train(experience)
        measured = strategy.eval(benchmark.test_stream)
    return network, measured


if __name__ == "__main__":
    digits = IncrementalDataModule("digits", split="2x5", batch_size=16, limit_images=1000)
    for size in (0, 100):
        print(f"replay of {size} images:")
        for name, value in learn(digits, size)[1].items():
            print(f"  {name} {value:.3f}")
