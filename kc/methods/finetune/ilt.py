"""ILT (Michieli and Zanuttigh 2019, arXiv 1907.13372): distil the old classes' posterior and the features."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kc.methods.finetune.losses import pixel_cross_entropy
from kc.methods.finetune.per_pixel import Maps, PerPixel
from kc.methods.finetune.pixel_distillation import pixel_distillation


class Ilt(PerPixel):
    """Cross entropy + 100 x distillation of the old columns + 100 x squared error of the body's features.

    The body is the encoder's coarsest level; where the encoder is frozen, it is what the classifier reads.
    """

    name = "ilt"

    def loss_against(self, new: Maps, old: Maps, target: Tensor) -> Tensor:
        """Cross entropy, distillation of logits, distillation of features."""
        config = self.context.config
        ce = pixel_cross_entropy(new.pixels, target) * self.weight(target)
        kd = pixel_distillation(new.pixels, old.pixels)
        bodies = (new.levels[-1], old.levels[-1]) if new.levels else (new.body, old.body)
        return ce + config.pixel_kd * kd + config.ilt_features * F.mse_loss(*bodies)
