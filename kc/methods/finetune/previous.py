"""The model as it was before the task: what distillation compares with."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from kc.methods.base import Batch
from kc.methods.finetune.classifier import GrowingClassifier
from kc.methods.finetune.heads import Head
from kc.methods.state import Unsaved
from kc.types import Features


class Previous(Unsaved):
    """A frozen copy of a method's network, decoder and classifier, always in evaluation mode.

    It is made when a task starts, from weights that the checkpoint of the task before holds: it is no state of its own.
    """

    def __init__(self, network: nn.Module | None, head: Head) -> None:
        super().__init__(*(copy.deepcopy(part) for part in (network, head.decoder, head.classifier)))
        for part in self.held:
            if part is not None:
                part.requires_grad_(False).eval()

    @property
    def network(self) -> nn.Module | None:
        """The old encoder, None where it is frozen and shared."""
        return self.held[0]

    @property
    def decoder(self) -> nn.Module:
        """The old decoder."""
        return cast(nn.Module, self.held[1])

    @property
    def classifier(self) -> GrowingClassifier:
        """The old classifier; the new one has the same columns first."""
        return cast(GrowingClassifier, self.held[2])

    @property
    def class_ids(self) -> list[int]:
        """Class of each old column."""
        return self.classifier.class_ids

    @torch.no_grad()
    def features(self, batch: Batch, features: Features) -> Features:
        """What the old encoder says of a batch; `features` are those of the new one, the same where it is frozen."""
        if self.network is None:
            return features
        old: Features = self.network(batch["image"])
        return old

    @torch.no_grad()
    def embed(self, features: Features) -> Tensor:
        """What the old classifier reads: (N, D) or (N, D, h, w); `features` are the old ones."""
        body: Tensor = self.decoder(features)
        return body

    @torch.no_grad()
    def logits(self, features: Features) -> Tensor:
        """(N, C_old) or (N, C_old, h, w) over the old columns; `features` are the old ones."""
        logits: Tensor = self.classifier(self.embed(features))
        return logits
