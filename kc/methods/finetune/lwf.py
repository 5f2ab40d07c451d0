"""`lwf`: learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282): new answers stay close to old ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from kc.methods.distributed import weight_of_rows
from kc.methods.finetune.losses import distillation, pixel_distillation
from kc.methods.finetune.module import GradientMethod
from kc.spec import MethodSpec, NonNegative, Positive, Tunable
from kc.types import Batch, Features


@dataclass(frozen=True)
class LwfOptions:
    """Options of learning without forgetting.

    Args:
        lambda_: Weight of the distillation of images.
        columns: What the distillation of images compares: old (the old columns among themselves) or all (new columns
            too, whose wanted probability is 0).
        temperature: Temperature of the distillation of images.
        pixel_kd: Weight of the distillation of maps; 100 in the comparisons of the segmentation literature.
    """

    lambda_: NonNegative = 1.0
    columns: Literal["old", "all"] = "all"
    temperature: Positive = 2.0
    pixel_kd: NonNegative = 100.0


class Lwf(GradientMethod):
    """The base loss + lambda * divergence from the old model's prediction, on the images of the new task.

    `columns="old"` compares the old columns among themselves (Li and Hoiem; Avalanche); `"all"` gives new columns the
    target 0 (van de Ven and Tolias 2019, arXiv 1904.07734). Maps are distilled at every pixel, without temperature.
    """

    name = "lwf"
    spec = MethodSpec(
        summary="New answers stay close to those of the model before the task, on the new task's images.",
        keeps="nothing",
        paper="Li and Hoiem 2016, arXiv 1606.09282",
        formula=r"\mathcal{L} = \mathcal{L}_{CE} + \lambda \, KL(\sigma(z_{old} / T), \sigma(z / T))",
        options=LwfOptions,
        tune=Tunable("lambda_"),
        tune_maps=Tunable("pixel_kd"),
    )
    options: LwfOptions
    keeps_previous = True

    def extra_loss(self, batch: Batch, features: Features, logits: Tensor) -> Tensor | None:
        if self.previous is None:
            return None
        options = self.options
        old = self.previous.logits(self.previous.features(batch, features))
        if not self.head.of_images:
            kd = pixel_distillation(self.head.scaled(logits), self.head.scaled(old))
            return options.pixel_kd * kd * weight_of_rows(logits)
        if options.columns == "old":
            logits = logits[:, : old.shape[1]]
        return options.lambda_ * distillation(logits, old, options.temperature) * weight_of_rows(logits)
