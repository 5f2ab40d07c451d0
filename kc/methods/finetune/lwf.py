"""`lwf`: learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282): new answers stay close to old ones."""

from __future__ import annotations

from torch import Tensor

from kc.methods.base import Batch
from kc.methods.finetune.losses import distillation
from kc.methods.finetune.module import GradientMethod
from kc.methods.finetune.pixel_distillation import pixel_distillation
from kc.types import Features


class Lwf(GradientMethod):
    """The base loss + lambda * divergence from the old model's answer, on the images of the new task.

    `lwf_columns`: `old` compares the old columns among themselves, as with one head a task (Li and Hoiem; Avalanche);
    `all` lets the new columns compete too and asks them for the probability 0, as van de Ven and Tolias 2019 (arXiv
    1904.07734) do for one growing head.

    Maps are distilled at every pixel, without temperature and with the strength of the segmentation literature.
    """

    name = "lwf"
    keeps_previous = True

    def extra_loss(self, batch: Batch, features: Features, logits: Tensor) -> Tensor | None:
        """Distillation, once there is an old model."""
        if self.previous is None:
            return None
        config = self.context.config
        old = self.previous.logits(self.previous.features(batch, features))
        if not self.head.of_images:
            return config.pixel_kd * pixel_distillation(self.head.scaled(logits), self.head.scaled(old))
        if config.lwf_columns == "old":
            logits = logits[:, : old.shape[1]]
        return config.lwf_lambda * distillation(logits, old, config.lwf_temperature)
