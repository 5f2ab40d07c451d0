"""`ewc` (Kirkpatrick et al. 2017, arXiv 1612.00796) and `ewc-online` (Schwarz et al. 2018, arXiv 1805.06370)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from kc.methods.base import Batch, Context
from kc.methods.config import USUAL_EWC_LAMBDA
from kc.methods.finetune.anchored import Anchored
from kc.methods.finetune.fisher import diagonal_fisher, min_max_normalize, running_fisher
from kc.methods.state import NamedTensors
from kc.types import Task


class Ewc(Anchored):
    """One quadratic penalty an old task, weighted by the Fisher information of its own images.

    The penalties of several tasks, sum_t F_t (w - w_t)^2, are one parabola: their sum is A (w - B / A)^2 and a
    constant, with A = sum F_t and B = sum F_t w_t. So importance and anchor are stored once, whatever the number of
    tasks, and every gradient is that of the separate penalties; only the constant is missing from the loss.

    For maps the Fisher information of each tensor is divided by its largest value, as in the comparisons of the
    segmentation literature (fcdl94/MiB at 1c58983, `utils/regularizer.py`): a loss that is a mean over thousands of
    pixels has tiny gradients, and lambda 500 belongs to this scale.

    `ewc_fisher="running"` measures as that code does instead: a running mean of the squared gradients of batches (see
    `running_fisher`), along the training and through all tasks, of which only the newest few steps are left at the
    end; one anchor, the newest weights; importance spread over [0, 1] in each tensor.
    """

    name = "ewc"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.running = NamedTensors(str)

    @property
    def runs(self) -> bool:
        """True where the Fisher information is a running mean."""
        return self.context.config.ewc_fisher == "running"

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """The running mean takes in the gradient of the loss; that of the penalty, which is known, is taken away."""
        if not self.runs:
            return
        for name, weight in self.trained().items():
            if weight.grad is None:
                continue
            gradient = weight.grad.detach()
            if name in self.anchor:
                gradient = gradient - 2 * self.strength * self.importance[name] * (weight.detach() - self.anchor[name])
            self.running[name] = running_fisher(self.running.get(name), gradient)

    @property
    def strength(self) -> float:
        """Lambda, where it is not given the usual one of the task kind."""
        given = self.context.config.ewc_lambda
        return USUAL_EWC_LAMBDA["images" if self.head.of_images else "maps"] if given is None else given

    def nll(self, batch: Batch) -> Tensor:
        """Negative log likelihood of a batch, of its own labels or of labels that the model draws."""
        logits = self.logits(self.features(batch))
        target = self.head.target(batch)
        if self.context.config.fisher == "sampled":
            target = sample_labels(logits, torch.tensor(self.classifier.class_ids, device=logits.device))
        return self.loss(logits, target)

    def end_task(self, task: Task) -> None:
        """Measure what this task needs, and join it with what the old ones need."""
        if self.runs:
            self.anchor.assign(self.weights())
            for name, weight in self.anchor.items():
                self.importance[name] = min_max_normalize(self.running.get(name, torch.ones_like(weight)))
            super().end_task(task)
            return
        was_training = self.training
        self.eval()
        fresh = diagonal_fisher(self.nll, self.trained(), self.task_batches())
        self.train(was_training)
        if not self.head.of_images:
            fresh = {k: v / v.max().clamp_min(torch.finfo(v.dtype).tiny) for k, v in fresh.items()}
        for name, weight in self.weights().items():
            self.importance[name], self.anchor[name] = self.merge_penalties(
                self.importance.get(name), self.anchor.get(name), fresh[name], weight
            )
        super().end_task(task)

    def merge_penalties(
        self, importance: Tensor | None, anchor: Tensor | None, fisher: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Importance and anchor of the old penalty and a new one together."""
        if importance is None or anchor is None:
            return fisher, weight
        total = importance + fisher
        mean = (importance * anchor + fisher * weight) / total.clamp_min(torch.finfo(total.dtype).tiny)
        return total, torch.where(total > 0, mean, weight)


class EwcOnline(Ewc):
    """One penalty in all: importance decays by gamma, and the anchor is the newest weight."""

    name = "ewc-online"

    @property
    def runs(self) -> bool:
        """Its own decay is all it has."""
        return False

    def merge_penalties(
        self, importance: Tensor | None, anchor: Tensor | None, fisher: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """gamma * F_old + F_new, around the newest weight."""
        if importance is None:
            return fisher, weight
        return self.context.config.ewc_decay * importance + fisher, weight


def sample_labels(logits: Tensor, class_ids: Tensor) -> Any:
    """Class ids drawn from softmax(logits): (N, C) -> (N,), (N, C, h, w) -> (N, h, w)."""
    last = logits.detach().movedim(1, -1).softmax(-1)
    columns = torch.multinomial(last.reshape(-1, last.shape[-1]), 1)[:, 0]
    return class_ids[columns].reshape(last.shape[:-1])
