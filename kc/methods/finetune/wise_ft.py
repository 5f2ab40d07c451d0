"""`wise-ft` (Wortsman et al. 2022, arXiv 2109.01903): answers come from a mixture of first and trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kc.methods.base import Context
from kc.methods.finetune.module import GradientMethod
from kc.methods.state import NamedTensors
from kc.spec import Fraction, MethodSpec, Tunable
from kc.types import Task


def mixed(first: Mapping[str, Tensor], trained: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) * first + alpha * trained, of each weight (eq. 1)."""
    return {k: (1 - alpha) * first[k] + alpha * v for k, v in trained.items()}


@dataclass(frozen=True)
class WiseFtOptions:
    """Options of WiSE-FT.

    Args:
        alpha: Share of the trained weights in the mixture (eq. 1); 1 is fine-tuning.
    """

    alpha: Fraction = 0.5


class WiseFt(GradientMethod):
    """Fine-tuning that predicts with (1 - alpha) w_0 + alpha w; training goes on from w itself.

    w_0 is each weight as it was made: the encoder's pretrained one, a column's first one. With a frozen encoder only
    the head is mixed; `--train full` is what the paper does.
    """

    name = "wise-ft"
    spec = MethodSpec(
        summary="Answers come from a mixture of first and trained weights.",
        keeps="first and trained weights",
        paper="Wortsman et al. 2022, arXiv 2109.01903",
        formula=r"\theta = (1 - \alpha) \theta_0 + \alpha \theta_{trained}",
        options=WiseFtOptions,
        tune=Tunable("alpha", 3, odds=True),
    )
    options: WiseFtOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.first = NamedTensors(str, moves=False)
        self.now = NamedTensors(str, moves=False)

    def _values(self) -> dict[str, Tensor]:
        """Weights and running statistics, which are mixed alike."""
        own = {k: v for k, v in self.state_dict().items() if not k.startswith(("first.", "now."))}
        return {k: v for k, v in own.items() if isinstance(v, Tensor) and v.is_floating_point()}

    def _set(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._values().items():
                if name in values:
                    value.copy_(values[name])

    def start_task(self, task: Task) -> None:
        """Go back to the trained weights and note the first value of what is new."""
        self._set(self.now)
        super().start_task(task)
        self.first.update({k: v.detach().clone().cpu() for k, v in self._values().items() if k not in self.first})

    def end_task(self, task: Task) -> None:
        super().end_task(task)
        self.now.assign({k: v.detach().clone().cpu() for k, v in self._values().items()})
        self._set(mixed(self.first, self.now, self.options.alpha))
