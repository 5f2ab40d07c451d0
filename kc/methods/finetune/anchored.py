"""Methods that pull important weights back to where an old task left them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kc.methods.base import Batch, Context
from kc.methods.finetune.module import GradientMethod
from kc.methods.state import NamedTensors
from kc.types import Features

Weights = dict[str, Tensor]


def quadratic_penalty(
    parameters: Mapping[str, Tensor], anchor: Mapping[str, Tensor], importance: Mapping[str, Tensor]
) -> Tensor:
    """sum of importance * (w - anchor)^2 over the weights that have an anchor; new columns have none."""
    terms = [(importance[k] * (parameters[k] - anchor[k]) ** 2).sum() for k in anchor]
    return torch.stack(terms).sum()


class Anchored(GradientMethod):
    """The base loss + strength * sum importance * (w - anchor)^2. Subclasses say what is important, in `end_task`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.anchor = NamedTensors(str)
        self.importance = NamedTensors(str)

    @property
    def strength(self) -> float:
        """Factor of the penalty."""
        raise TypeError(f"{type(self).__name__} does not say how strong it is")

    def extra_loss(self, batch: Batch, features: Features, logits: Tensor) -> Tensor | None:
        """The penalty, once there is an old task."""
        if not self.anchor:
            return None
        return self.strength * quadratic_penalty(self.trained(), self.anchor, self.importance)

    def weights(self) -> Weights:
        """A copy of the weights as they are."""
        return {k: p.detach().clone() for k, p in self.trained().items()}
