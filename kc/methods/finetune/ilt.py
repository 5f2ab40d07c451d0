"""ILT (Michieli and Zanuttigh 2019, arXiv 1907.13372): distil the old classes' posterior and the features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from kc.methods.distributed import weight_of_rows
from kc.methods.finetune.losses import cross_entropy, pixel_distillation
from kc.methods.finetune.per_pixel import Maps, PerPixel
from kc.spec import DENSE, MethodSpec, NonNegative, Tunable


@dataclass(frozen=True)
class IltOptions:
    """Options of ILT.

    Args:
        kd: Weight of the distillation of maps; 100 in the paper's comparison.
        features: Weight of the distillation of features.
    """

    kd: NonNegative = 100.0
    features: NonNegative = 100.0


class Ilt(PerPixel):
    """Cross entropy + 100 x distillation of the old columns + 100 x squared error of the body's features.

    The body is the encoder's coarsest level; where the encoder is frozen, it is what the classifier reads.
    """

    name = "ilt"
    spec = MethodSpec(
        summary="Distils the old classes' posterior and the body's features at every pixel.",
        keeps="nothing",
        paper="Michieli and Zanuttigh 2019, arXiv 1907.13372",
        formula=r"\mathcal{L}_{CE} + \lambda_{kd} \mathcal{L}_{KD} + \lambda_f \lVert h - h_{old} \rVert_2^2",
        options=IltOptions,
        kinds=DENSE,
        streams=("class", "task", "online", "long-tailed"),
        pixels=True,
        tune=Tunable("features"),
    )
    options: IltOptions

    def loss_against(self, new: Maps, old: Maps, target: Tensor) -> Tensor:
        ce = cross_entropy(new.pixels, target) * self.weight(target)
        kd = pixel_distillation(new.pixels, old.pixels)
        bodies = (new.levels[-1], old.levels[-1]) if new.levels else (new.body, old.body)
        distance = self.options.kd * kd + self.options.features * F.mse_loss(*bodies)
        return ce + distance * weight_of_rows(target)
