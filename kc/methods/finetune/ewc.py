"""`ewc` (Kirkpatrick et al. 2017, arXiv 1612.00796) and `ewc-online` (Schwarz et al. 2018, arXiv 1805.06370)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from kc.methods.base import Context
from kc.methods.finetune.module import GradientMethod
from kc.methods.state import NamedTensors
from kc.spec import MethodSpec, NonNegative, Tunable
from kc.types import Batch, Features, Task

Weights = dict[str, Tensor]


def quadratic_penalty(
    parameters: Mapping[str, Tensor], anchor: Mapping[str, Tensor], importance: Mapping[str, Tensor]
) -> Tensor:
    """sum of importance * (w - anchor)^2 over the weights that have an anchor; new columns have none."""
    return torch.stack([(importance[k] * (parameters[k] - anchor[k]) ** 2).sum() for k in anchor]).sum()


class Anchored(GradientMethod):
    """The base loss + strength * sum importance * (w - anchor)^2. Subclasses say what is important, in `end_task`."""

    strength: float
    """Factor of the penalty."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.anchor = NamedTensors(str)
        self.importance = NamedTensors(str)

    def extra_loss(self, batch: Batch, features: Features, logits: Tensor) -> Tensor | None:
        if not self.anchor:
            return None
        return self.strength * quadratic_penalty(self.trained(), self.anchor, self.importance)

    def loss_gradients(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, weight and gradient of the loss alone: that of the penalty, which is known, is taken away."""
        for name, weight in self.trained().items():
            if weight.grad is not None:
                gradient = weight.grad.detach().clone()
                if name in self.anchor:
                    gradient -= 2 * self.strength * self.importance[name] * (weight.detach() - self.anchor[name])
                yield name, weight.detach(), gradient

    def weights(self) -> Weights:
        return {k: p.detach().clone() for k, p in self.trained().items()}


def diagonal_fisher(
    loss_of: Callable[[Batch], Tensor], parameters: Mapping[str, Tensor], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """F = mean over samples of (d loss / d w)^2, of the shape of each parameter (Kirkpatrick et al. 2017).

    The gradient is taken of each sample alone: in a batch's mean gradient those of samples cancel.

    Args:
        loss_of: the negative log likelihood of a batch of one.
        parameters: what to differentiate by; a parameter that a sample does not touch counts 0.
        batches: batches of any size; every tensor and every list has one entry a sample.

    Raises ValueError where there is no sample.
    """
    names, values = list(parameters), list(parameters.values())
    total = {name: torch.zeros_like(value, requires_grad=False) for name, value in parameters.items()}
    count = 0
    for batch in batches:
        for row in range(len(batch["sample_id"])):
            gradients = torch.autograd.grad(loss_of(sample(batch, row)), values, allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient.detach() ** 2
            count += 1
    if count == 0:
        raise ValueError("the Fisher information of no sample is undefined")
    return {name: value / count for name, value in total.items()}


def running_fisher(old: Tensor | None, gradient: Tensor) -> Tensor:
    """0.9 g^2 + 0.1 F: the newest gradient counts most; before the first, F is 1 (fcdl94/MiB at 3da2fe3, `EWC.update`).

    Args:
        old: F so far, None before the first step.
        gradient: of the mean loss of a batch, without the penalty.
    """
    return 0.9 * gradient**2 + (1 - 0.9) * (torch.ones_like(gradient) if old is None else old)


def min_max_normalize(fisher: Tensor) -> Tensor:
    """(F - min) / (max - min + 1e-8) over the entries of one tensor (`normalize_fn` of the same code)."""
    return (fisher - fisher.min()) / (fisher.max() - fisher.min() + 1e-8)


def sample(batch: Batch, row: int) -> dict[str, Any]:
    """One row of a batch, as a batch of one."""
    return {key: value[row : row + 1] for key, value in batch.items()}


@dataclass(frozen=True)
class FisherOptions:
    """Options of a penalty by Fisher information.

    Args:
        lambda_: Weight of the penalty, lambda * sum F (w - w_old)^2 (half of Kirkpatrick's lambda); default: 100 for
            images, 500 for maps, where F is scaled to at most 1.
        fisher: Labels of the Fisher information: empirical (those of the data) or sampled (drawn from the model).
    """

    lambda_: NonNegative | None = None
    fisher: Literal["empirical", "sampled"] = "empirical"


@dataclass(frozen=True)
class EwcOptions(FisherOptions):
    """Options of EWC.

    Args:
        importance: How importance is measured: samples (the mean over the images of a finished task, one by one) or
            running (as the authors of MiB do: 0.9 of the newest batch's squared gradient + 0.1 of what was, through all
            steps and tasks).
    """

    importance: Literal["samples", "running"] = "samples"


@dataclass(frozen=True)
class EwcOnlineOptions(FisherOptions):
    """Options of online EWC.

    Args:
        decay: What is kept of the old importance when a task ends (gamma of Schwarz et al.).
    """

    decay: NonNegative = 1.0


class Ewc(Anchored):
    """One quadratic penalty an old task, weighted by the Fisher information of its own images.

    The sum of the penalties, sum_t F_t (w - w_t)^2, is A (w - B / A)^2 and a constant, A = sum F_t, B = sum F_t w_t:
    importance and anchor are stored once, whatever the number of tasks, and gradients are those of all penalties.

    For maps the Fisher information of each tensor is divided by its largest value, as in the comparisons of the
    segmentation literature (fcdl94/MiB at 1c58983, `utils/regularizer.py`), to which lambda 500 belongs.

    `importance="running"` measures as that code does: a running mean of the squared gradients of batches through all
    tasks (see `running_fisher`); one anchor, the newest weights; importance spread over [0, 1] in each tensor.
    """

    name = "ewc"
    spec = MethodSpec(
        summary="A quadratic penalty on changes to weights that were important to old tasks.",
        keeps="an anchor and an importance a weight",
        paper="Kirkpatrick et al. 2017, arXiv 1612.00796",
        formula=r"\mathcal{L} = \mathcal{L}_{CE} + \lambda \sum_t \sum_i F_i^t (\theta_i - \theta_i^t)^2",
        options=EwcOptions,
        second_pass=True,
        tune=Tunable("lambda_", start=100.0),
        tune_maps=Tunable("lambda_", start=500.0),
    )
    options: EwcOptions | EwcOnlineOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.running = NamedTensors(str)
        given, usual = self.options.lambda_, 100.0 if self.head.of_images else 500.0
        self.strength = usual if given is None else given

    @property
    def runs(self) -> bool:
        return isinstance(self.options, EwcOptions) and self.options.importance == "running"

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.runs:
            for name, _, gradient in self.loss_gradients():
                self.running[name] = running_fisher(self.running.get(name), gradient)

    def nll(self, batch: Batch) -> Tensor:
        """Negative log likelihood of a batch, of its own labels or of labels that the model draws."""
        logits = self.logits(self.features(batch))
        target = self.head.target(batch)
        if self.options.fisher == "sampled":
            target = sample_labels(logits, torch.tensor(self.classifier.class_ids, device=logits.device))
        return self.loss(logits, target)

    def end_task(self, task: Task) -> None:
        if self.runs:
            self.anchor.assign(self.weights())
            for name, weight in self.anchor.items():
                self.importance[name] = min_max_normalize(self.running.get(name, torch.ones_like(weight)))
        else:
            self._add_penalty()
        super().end_task(task)

    def _add_penalty(self) -> None:
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
    spec = MethodSpec(
        summary="EWC with one penalty in all: importance decays, and the anchor is the newest weight.",
        keeps="an anchor and an importance a weight",
        paper="Schwarz et al. 2018, arXiv 1805.06370",
        formula=r"\mathcal{L} = \mathcal{L}_{CE} + \lambda \sum_i \tilde F_i (\theta_i - \theta_i^{t-1})^2, "
        r"\quad \tilde F \leftarrow \gamma \tilde F + F^t",
        options=EwcOnlineOptions,
        second_pass=True,
        tune=Tunable("lambda_", start=100.0),
        tune_maps=Tunable("lambda_", start=500.0),
    )

    def merge_penalties(
        self, importance: Tensor | None, anchor: Tensor | None, fisher: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """gamma * F_old + F_new, around the newest weight."""
        assert isinstance(self.options, EwcOnlineOptions)
        return fisher if importance is None else self.options.decay * importance + fisher, weight


def sample_labels(logits: Tensor, class_ids: Tensor) -> Any:
    """Class ids drawn from softmax(logits): (N, C) -> (N,), (N, C, h, w) -> (N, h, w)."""
    last = logits.detach().movedim(1, -1).softmax(-1)
    columns = torch.multinomial(last.reshape(-1, last.shape[-1]), 1)[:, 0]
    return class_ids[columns].reshape(last.shape[:-1])
