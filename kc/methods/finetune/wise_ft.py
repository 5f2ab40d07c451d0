"""`wise-ft` (Wortsman et al. 2022, arXiv 2109.01903): answers come from a mixture of first and trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kc.methods.base import Context, n_bytes
from kc.methods.finetune.module import FinetuneModule
from kc.types import Task

Weights = dict[str, Tensor]


def mixed(first: Mapping[str, Tensor], trained: Mapping[str, Tensor], alpha: float) -> Weights:
    """(1 - alpha) * first + alpha * trained, of each weight (eq. 1)."""
    return {k: (1 - alpha) * first[k] + alpha * v for k, v in trained.items()}


class WiseFt(FinetuneModule):
    """Fine-tuning whose answers come from (1 - alpha) w_0 + alpha w; training goes on from w itself.

    w_0 is each weight as it came into being: the encoder's pretrained one, a column's and a decoder's first one. With
    a frozen encoder only the head is mixed; `--train full` is what the paper does.
    """

    name = "wise-ft"
    beside = ("first", "trained")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.first: Weights = {}
        self.now: Weights = {}

    def _values(self) -> Weights:
        """Weights and running statistics, which are mixed alike."""
        return {k: v for k, v in self.state_dict().items() if v.is_floating_point()}

    def _set(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._values().items():
                if name in values:
                    value.copy_(values[name])

    def start_task(self, task: Task) -> None:
        """Go back to the trained weights and note the first value of what is new."""
        self._set(self.now)
        super().start_task(task)
        self.first |= {k: v.detach().clone().cpu() for k, v in self._values().items() if k not in self.first}

    def end_task(self, task: Task) -> None:
        """Keep the trained weights and answer with the mixture."""
        super().end_task(task)
        self.now = {k: v.detach().clone().cpu() for k, v in self._values().items()}
        self._set(mixed(self.first, self.now, self.context.config.wise_alpha))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The mixture, the trained weights and the first ones."""
        tensors, meta = super().state()
        tensors |= {f"first.{k}": v.contiguous() for k, v in self.first.items()}
        return tensors | {f"trained.{k}": v.contiguous() for k, v in self.now.items()}, meta

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """The mixture, the trained weights and the first ones."""
        super().load_state(tensors, meta)
        self.first = {k.removeprefix("first."): v for k, v in tensors.items() if k.startswith("first.")}
        self.now = {k.removeprefix("trained."): v for k, v in tensors.items() if k.startswith("trained.")}

    def stored_bytes(self) -> int:
        """Bytes of the three sets of weights."""
        return super().stored_bytes() + n_bytes(self.first.values()) + n_bytes(self.now.values())
