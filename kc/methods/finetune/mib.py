"""MiB, modelling the background (Cermelli et al. 2020, arXiv 2002.00718)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from kc.methods.finetune.per_pixel import Maps, PerPixel
from kc.methods.finetune.unbiased import spread_background, unbiased_cross_entropy, unbiased_distillation
from kc.spec import DENSE, MethodSpec, NonNegative, Tunable
from kc.types import Task


@dataclass(frozen=True)
class MibOptions:
    """Options of MiB.

    Args:
        kd: Weight of the unbiased distillation.
    """

    kd: NonNegative = 10.0


class Mib(PerPixel):
    """Unbiased cross entropy + 10 x unbiased distillation; new classes start as parts of the background."""

    name = "mib"
    spec = MethodSpec(
        summary="Background as the union of all that is not labelled, in the loss and in the distillation.",
        keeps="nothing",
        paper="Cermelli et al. 2020, arXiv 2002.00718",
        formula=r"\mathcal{L} = -\log \hat p_y + \lambda \mathcal{L}_{KD}, \quad "
        r"\log \hat p_0 = \operatorname{lse}(z_O) - \operatorname{lse}(z)",
        options=MibOptions,
        kinds=DENSE,
        streams=("class", "task", "online", "long-tailed"),
        pixels=True,
        background=True,
        tune=Tunable("kd"),
    )
    options: MibOptions

    def start_task(self, task: Task) -> None:
        """Grow the head, then divide the background among itself and the new classes."""
        super().start_task(task)
        start_as_background(self)

    def loss_against(self, new: Maps, old: Maps, target: Tensor) -> Tensor:
        """Both losses with the background as the union of what is not labelled."""
        kd = unbiased_distillation(new.pixels, old.pixels)
        ce = unbiased_cross_entropy(new.pixels, target, old.pixels.shape[1]) * self.weight(target)
        return ce + self.options.kd * kd


def start_as_background(method: PerPixel) -> None:
    """MiB's start of the newest columns, where the task brought any and was not the first."""
    head = method.classifier
    if method.previous is None or len(head.class_ids) == len(method.previous.class_ids):
        return
    first, last = head.steps[0], head.steps[-1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    spread_background(first, last)
