"""Methods that pull important weights back to where an old task left them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kc.methods.base import Batch, Context, n_bytes
from kc.methods.finetune.module import FinetuneModule
from kc.types import Features

Weights = dict[str, Tensor]


def quadratic_penalty(
    parameters: Mapping[str, Tensor], anchor: Mapping[str, Tensor], importance: Mapping[str, Tensor]
) -> Tensor:
    """sum of importance * (w - anchor)^2 over the weights that have an anchor; new columns have none."""
    terms = [(importance[k] * (parameters[k] - anchor[k]) ** 2).sum() for k in anchor]
    return torch.stack(terms).sum()


class Anchored(FinetuneModule):
    """The base loss + strength * sum importance * (w - anchor)^2. Subclasses say what is important, in `end_task`."""

    beside: tuple[str, ...] = ("anchor", "importance")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.anchor: Weights = {}
        self.importance: Weights = {}

    @property
    def strength(self) -> float:
        """Factor of the penalty."""
        raise TypeError(f"{type(self).__name__} does not say how strong it is")

    def on_train_start(self) -> None:
        """Bring the anchors to where the weights are."""
        super().on_train_start()
        self.anchor = {k: v.to(self.device) for k, v in self.anchor.items()}
        self.importance = {k: v.to(self.device) for k, v in self.importance.items()}

    def extra_loss(self, batch: Batch, features: Features, logits: Tensor) -> Tensor | None:
        """The penalty, once there is an old task."""
        if not self.anchor:
            return None
        return self.strength * quadratic_penalty(self.trained(), self.anchor, self.importance)

    def weights(self) -> Weights:
        """A copy of the weights as they are."""
        return {k: p.detach().clone() for k, p in self.trained().items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights, anchors, importance."""
        tensors, meta = super().state()
        for prefix, held in (("anchor", self.anchor), ("importance", self.importance)):
            tensors |= {f"{prefix}.{k}": v.cpu().contiguous() for k, v in held.items()}
        return tensors, meta

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Weights, anchors, importance."""
        super().load_state(tensors, meta)
        self.anchor = {k.removeprefix("anchor."): v for k, v in tensors.items() if k.startswith("anchor.")}
        self.importance = {k.removeprefix("importance."): v for k, v in tensors.items() if k.startswith("importance.")}

    def stored_bytes(self) -> int:
        """Bytes of weights, anchors and importance."""
        return super().stored_bytes() + n_bytes(self.anchor.values()) + n_bytes(self.importance.values())
