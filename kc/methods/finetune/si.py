"""`si`: synaptic intelligence (Zenke et al. 2017, arXiv 1703.04200): importance is measured along the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from kc.methods.base import Context
from kc.methods.finetune.ewc import Anchored, Weights
from kc.spec import MethodSpec, NonNegative, Positive, Tunable
from kc.types import Batch, Task


def path_importance(path: Mapping[str, Tensor], moved: Mapping[str, Tensor], damping: float) -> dict[str, Tensor]:
    """path / (moved^2 + damping) (eq. 5): the fall of the loss that each weight brought, by the distance it moved.

    Args:
        path: sum over the steps of -gradient * step of each weight (its omega).
        moved: the weight at the end of the task - at its start.
        damping: xi, above 0.
    """
    return {k: path[k] / (moved[k] ** 2 + damping) for k in path}


@dataclass(frozen=True)
class SiOptions:
    """Options of synaptic intelligence.

    Args:
        lambda_: Weight of the penalty: the paper's c (eq. 4).
        damping: Damping of the distance that a weight moved: the paper's xi (eq. 5).
    """

    lambda_: NonNegative = 1.0
    damping: Positive = 0.1


class Si(Anchored):
    """The penalty of `Anchored` with importance from the path of the optimiser; no pass over the data is added.

    The gradient along the path is that of the base loss. A negative sum counts 0: it would push weights away.
    """

    name = "si"
    spec = MethodSpec(
        summary="A quadratic penalty whose importance is measured along the path of the optimiser.",
        keeps="an anchor and an importance a weight",
        paper="Zenke et al. 2017, arXiv 1703.04200",
        formula=r"\mathcal{L} = \mathcal{L}_{CE} + c \sum_i \Omega_i (\theta_i - \theta_i^{t-1})^2, "
        r"\quad \Omega_i = \sum_t \frac{\omega_i^t}{(\Delta_i^t)^2 + \xi}",
        options=SiOptions,
        tune=Tunable("lambda_"),
    )
    options: SiOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.strength = self.options.lambda_
        self._path: Weights = {}
        self._start: Weights = {}
        self._step: dict[str, tuple[Tensor, Tensor]] = {}

    def on_train_start(self) -> None:
        super().on_train_start()
        self._start = self.weights()
        self._path = {k: torch.zeros_like(v) for k, v in self._start.items()}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self._step = {name: (gradient, weight.clone()) for name, weight, gradient in self.loss_gradients()}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        weights = self.trained()
        for name, (gradient, before) in self._step.items():
            self._path[name] -= gradient * (weights[name].detach() - before)
        self._step = {}

    def end_task(self, task: Task) -> None:
        now = self.weights()
        moved = {k: now[k] - self._start[k] for k in self._path}
        fresh = path_importance(self._path, moved, self.options.damping)
        self.importance.assign({k: self.importance.get(k, 0) + v.clamp_min(0) for k, v in fresh.items()})
        self.anchor.assign(now)
        self._path, self._start = {}, {}
        super().end_task(task)
