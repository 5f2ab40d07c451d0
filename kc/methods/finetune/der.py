"""`der++`: dark experience replay (Buzzega et al. 2020, arXiv 2004.07211): stored images keep the logits they had."""

from __future__ import annotations

from torch import Tensor

from kc.methods.base import Batch
from kc.methods.distributed import all_gather_batch
from kc.methods.finetune.buffer import as_batch, padded
from kc.methods.finetune.er import Buffered
from kc.methods.finetune.losses import logit_distance
from kc.types import Features


class DerPlusPlus(Buffered):
    """Base loss + alpha * distance to stored logits + beta * cross entropy, on two draws from the reservoir (eq. 6).

    Images are offered in every step, with the logits of that step, so that logits come from along the whole path of
    the optimiser. A logit of a class that was unknown when an image was stored is not compared.
    """

    name = "der++"

    def extra_loss(self, batch: Batch, features: Features, logits: Tensor) -> Tensor | None:
        """The two terms of the reservoir, before the batch is offered to it."""
        config = self.context.config
        extra = None
        if len(self.buffer):
            first, second = self.draw(batch), self.draw(batch)
            old = padded([s.logits for s in first]).to(logits)
            extra = config.der_alpha * logit_distance(self.logits(self.features(as_batch(first, batch))), old)
            again = as_batch(second, batch)
            extra = extra + config.der_beta * self.loss(self.logits(self.features(again)), again["label"])
        seen = all_gather_batch({**batch, "logits": logits.detach()})
        self.buffer.offer_batch(seen, seen["logits"])
        return extra
