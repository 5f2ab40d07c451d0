"""The model as it was before the task: what distillation compares with."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kc.methods.base import Batch
from kc.types import Features

if TYPE_CHECKING:
    from kc.methods.finetune.module import FinetuneModule


class Previous(nn.Module):
    """A frozen copy of a method's network, decoder and classifier, always in evaluation mode.

    It is made when a task starts, from weights that the checkpoint of the task before holds, so that no state has to
    be kept for it: `FinetuneModule` does so where `keeps_previous` is set.
    """

    def __init__(self, module: FinetuneModule) -> None:
        super().__init__()
        self.network = copy.deepcopy(module.network)
        self.decoder = copy.deepcopy(module.decoder)
        self.classifier = copy.deepcopy(module.classifier)
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Previous:
        """Stay in evaluation mode, whatever the module around it does."""
        return self

    @property
    def class_ids(self) -> list[int]:
        """Class of each old column; the new head has the same ones first."""
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
        return self.classifier(self.embed(features))  # type: ignore[no-any-return]
