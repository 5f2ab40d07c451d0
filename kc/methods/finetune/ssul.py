"""After SSUL (Cha et al. 2021, arXiv 2106.11562): frozen backbone, one sigmoid a class, pseudo-labels.

SSUL divides what is not labelled into background and unknown objects by a saliency detector. There is none here:
column 0 is both, which for benchmarks without a background class (hidden pixels) is exactly its unknown class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kc.methods.finetune.heads import copy_column
from kc.methods.finetune.losses import pixel_binary_cross_entropy
from kc.methods.finetune.per_pixel import Maps, PerPixel
from kc.spec import DENSE, BelowOne, MethodSpec, Tunable
from kc.types import Task


@dataclass(frozen=True)
class SsulOptions:
    """Options of SSUL.

    Args:
        threshold: Probability from which the old model's class becomes a pseudo-label.
    """

    threshold: BelowOne = 0.7


class Ssul(PerPixel):
    """After the first task only column 0 and the new classes learn, which start from column 0.

    Unlabelled pixels get the old model's class where its sigmoid reaches the option `threshold`.
    """

    name = "ssul"
    spec = MethodSpec(
        summary="Frozen after the first task but for new classes; one sigmoid a class, pseudo-labels.",
        keeps="nothing",
        paper="after Cha et al. 2021, arXiv 2106.11562",
        formula=r"\mathcal{L} = \sum_c BCE(z_c, [\tilde y = c])",
        options=SsulOptions,
        kinds=DENSE,
        streams=("class", "task", "online", "long-tailed"),
        pixels=True,
        background=True,
        tune=Tunable("threshold", 3, odds=True),
    )
    options: SsulOptions

    def start_task(self, task: Task) -> None:
        """Grow the head; after the first task freeze all that is old but column 0."""
        super().start_task(task)
        if self.previous is None:
            return
        n_new = len(self.classifier.class_ids) - len(self.previous.classifier.class_ids)
        steps = list(self.classifier.steps)
        old = steps[1:-1] if n_new else steps[1:]
        for module in (self.network, self.head.decoder, *old):
            if module is not None:
                module.requires_grad_(False)
        if n_new:
            copy_column(steps[0], steps[-1])

    def on_train_start(self) -> None:
        """What is frozen also stays in evaluation mode: batch norms keep their statistics."""
        super().on_train_start()
        if self.previous is not None:
            self.head.decoder.eval()
            if self.network is not None:
                self.network.eval()

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        pixels = self.head.scaled(logits)
        columns = self.head.columns(target, pixels)
        return pixel_binary_cross_entropy(pixels, columns) * self.weight(columns)

    def loss_against(self, new: Maps, old: Maps, target: Tensor) -> Tensor:
        score, found = old.pixels.sigmoid().max(1)
        believed = self.unlabelled(target) & (score >= self.options.threshold)
        return pixel_binary_cross_entropy(new.pixels, torch.where(believed, found, target)) * self.weight(target)
