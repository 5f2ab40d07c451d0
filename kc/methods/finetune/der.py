"""`der++`: dark experience replay (Buzzega et al. 2020, arXiv 2004.07211): stored images keep the logits they had."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kc.methods.distributed import all_gather_batch, weight_of_rows
from kc.methods.finetune.er import Buffered, as_batch, padded
from kc.methods.finetune.losses import logit_distance
from kc.spec import MethodSpec, NonNegative, Tunable
from kc.types import Batch, Features


@dataclass(frozen=True)
class DerOptions:
    """Options of dark experience replay.

    Args:
        alpha: Weight of the distance to the stored logits (eq. 6).
        beta: Weight of the cross entropy on stored images (eq. 6).
    """

    alpha: NonNegative = 0.1
    beta: NonNegative = 0.5


class DerPlusPlus(Buffered):
    """Base loss + alpha * distance to stored logits + beta * cross entropy, on two draws from the reservoir (eq. 6).

    Images are offered in every step, with the logits of that step, so that logits come from along the whole path of
    the optimiser. A logit of a class that was unknown when an image was stored is not compared.
    """

    name = "der++"
    spec = MethodSpec(
        summary="A reservoir whose images keep the logits that they had.",
        keeps="images, logits",
        paper="Buzzega et al. 2020, arXiv 2004.07211",
        formula=r"\mathcal{L}_{CE} + \alpha \lVert z - z_{stored} \rVert_2^2 + \beta \mathcal{L}_{CE}^{stored}",
        options=DerOptions,
        kinds=("classification",),
        exemplars=True,
        tune=Tunable("alpha", 10**0.5),
    )
    options: DerOptions

    def extra_loss(self, batch: Batch, features: Features, logits: Tensor) -> Tensor | None:
        extra = None
        if len(self.buffer):
            first, second = self.draw(batch), self.draw(batch)
            old = padded([s.logits for s in first]).to(logits)
            distance = logit_distance(self.logits(self.features(as_batch(first, batch))), old)
            extra = self.options.alpha * distance * weight_of_rows(old)
            again = as_batch(second, batch)
            extra = extra + self.options.beta * self.loss(self.logits(self.features(again)), again["label"])
        seen = all_gather_batch({**batch, "logits": logits.detach()})
        self.buffer.offer_batch(seen, seen["logits"])
        return extra
