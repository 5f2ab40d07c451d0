"""MiB, modelling the background (Cermelli et al. 2020, arXiv 2002.00718)."""

from __future__ import annotations

from torch import Tensor, nn

from kc.methods.finetune.per_pixel import Maps, PerPixel
from kc.methods.finetune.unbiased import spread_background, unbiased_cross_entropy, unbiased_distillation
from kc.types import Task


class Mib(PerPixel):
    """Unbiased cross entropy + 10 x unbiased distillation; new classes start as parts of the background."""

    name = "mib"

    def start_task(self, task: Task) -> None:
        """Grow the head, then divide the background among itself and the new classes."""
        super().start_task(task)
        start_as_background(self)

    def loss_against(self, new: Maps, old: Maps, target: Tensor) -> Tensor:
        """Both losses with the background as the union of what is not labelled."""
        kd = unbiased_distillation(new.pixels, old.pixels)
        ce = unbiased_cross_entropy(new.pixels, target, old.pixels.shape[1]) * self.weight(target)
        return ce + self.context.config.mib_kd * kd


def start_as_background(method: PerPixel) -> None:
    """MiB's start of the newest columns, where the task brought any and was not the first."""
    head = method.classifier
    if method.previous is None or len(head.class_ids) == len(method.previous.class_ids):
        return
    first, last = head.steps[0], head.steps[-1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    spread_background(first, last)
