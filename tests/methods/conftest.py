"""A tiny real encoder and a context around it, for methods that train."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kc.encoders.base import Encoder
from kc.encoders.cache import FeatureCache
from kc.methods.base import Context, Remembers
from kc.methods.training_options import Training
from kc.types import ClassInfo, Features, Task, TaskKind


class ToyEncoder(Encoder):
    """Two convolutions and one batch norm: levels at strides 4 and 8 (3 and 5 channels), pooled 5."""

    def __init__(self) -> None:
        super().__init__()
        self.name = self.architecture = "toy"
        self.strides, self.channels, self.pooled_dim = (4, 8), (3, 5), 5
        self.preprocessing = (1.0, 0.0)
        self.stem = nn.Conv2d(3, 3, 4, stride=4, bias=False)  # before a norm a bias has only rounding for a gradient
        self.norm = nn.BatchNorm2d(3)
        self.body = nn.Conv2d(3, 5, 2, stride=2)

    def forward(self, images: Tensor) -> Features:
        fine = torch.relu(self.norm(self.stem(images)))
        coarse = self.body(fine)
        return Features(coarse.mean((2, 3)), (fine, coarse), self.strides)


@pytest.fixture
def toy_context(tmp_path: Path) -> Callable[..., Context]:
    """make(kind, options=O, **training) -> Context with classes 0..5 and a fresh seeded ToyEncoder; `background=True`:
    class 0 is."""

    def make(
        kind: TaskKind = "classification", background: bool = False, options: Any = None, **training: Any
    ) -> Context:
        torch.manual_seed(0)
        encoder = ToyEncoder().eval().requires_grad_(False)
        classes = {c: ClassInfo(c, str(c), background=background and c == 0) for c in range(6)}
        features = FeatureCache(tmp_path / "features", encoder)
        return Context(kind, classes, encoder, features, Training(**training), 0, tmp_path, options=options)

    return make


@pytest.fixture(scope="session")
def wave() -> Callable[..., Tensor]:
    """make(*shape, phase=0, scale=2) -> float64 scale * sin(0.7 k + 0.013 k^2 + phase), k the flat index.

    By formula, not by a generator, so that golden numbers made from it hold on every version of torch.
    """

    def make(*shape: int, phase: float = 0.0, scale: float = 2.0) -> Tensor:
        k = torch.arange(math.prod(shape), dtype=torch.float64)
        return scale * torch.sin(0.7 * k + 0.013 * k * k + phase).reshape(shape)

    return make


@pytest.fixture
def learn() -> Callable[..., None]:
    """learn(method, task, batches, epochs=1, lr=0.1): SGD with the hooks in Lightning's order, without a Trainer."""

    def run(method: Any, task: Task, batches: list[dict[str, Any]], epochs: int = 1, lr: float = 0.1) -> None:
        method.start_task(task)
        method.task_batches = lambda: iter(batches)
        method.on_train_start()
        optimizer = torch.optim.SGD(method.trained().values(), lr=lr)
        for _ in range(epochs):
            for i, batch in enumerate(batches):
                optimizer.zero_grad()
                method.training_step(batch, i).backward()
                method.on_before_optimizer_step(optimizer)
                optimizer.step()
                method.on_train_batch_end(None, batch, i)
        if isinstance(method, Remembers):
            method.commit(task.index, 1)
        method.end_task(task)

    return run


@pytest.fixture
def images() -> Callable[..., dict[str, Any]]:
    """images([1, 2, 2], seed=0): a seeded batch with these labels; each image is brighter where its label is."""

    def make(labels: list[int], seed: int = 0) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(len(labels), 3, 16, 16, generator=generator) / 2
        for i, label in enumerate(labels):
            image[i, label % 3, 2 * label : 2 * label + 4] += 0.5
        ids = [f"{seed}-{i}" for i in range(len(labels))]
        return {"image": image, "sample_id": ids, "label": torch.tensor(labels)}

    return make
