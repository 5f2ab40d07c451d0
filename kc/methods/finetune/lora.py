"""`lora` (Hu et al. 2022, arXiv 2106.09685): low-rank adapters in the encoder, whose own weights never change."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from kc.errors import MissingExtraError
from kc.methods.base import Context
from kc.methods.finetune.module import GradientMethod
from kc.spec import TUNE_LR, Count, MethodSpec
from kc.types import Task


@dataclass(frozen=True)
class LoraOptions:
    """Options of LoRA.

    Args:
        rank: Rank of the adapters.
        scope: grow (one adapter is trained in every task) or task (a new one a task, the old ones frozen).
    """

    rank: Count = 8
    scope: Literal["grow", "task"] = "grow"


class Lora(GradientMethod):
    """The head and adapters learn: one adapter for all tasks (`scope` grow), or one more a task, the old ones frozen.

    Adapters sit on every linear layer and every ordinary convolution of the encoder (not on depthwise ones, and not on
    those that pad by the input's size), scaled by 1. Batch norms keep the statistics they came with.
    """

    name = "lora"
    spec = MethodSpec(
        summary="Low-rank adapters in the encoder, whose own weights never change.",
        keeps="adapters",
        paper="Hu et al. 2022, arXiv 2106.09685",
        formula=r"W = W_0 + B A, \quad B \in \mathbb{R}^{d \times r}, A \in \mathbb{R}^{r \times k}",
        options=LoraOptions,
        trains_encoder=True,
        package="peft",
        extra="lora",
        tune=TUNE_LR,
    )
    options: LoraOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert self.network is not None
        self.network.requires_grad_(False)
        self.encoder_share = 1.0  # adapters start at zero: they learn at the full rate
        self.targets = [k for k, m in self.network.named_modules() if adaptable(m)]
        self.adapters: list[str] = []
        if self.options.scope == "grow":
            self._add("all")

    def _add(self, name: str) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
            from peft.tuners.tuners_utils import BaseTunerLayer
        except ImportError as error:
            raise MissingExtraError("lora needs peft: pip install 'kc-continual[lora]'") from error
        assert self.network is not None
        config = LoraConfig(r=self.options.rank, lora_alpha=self.options.rank, target_modules=self.targets)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several are what is wanted
            inject_adapter_in_model(config, self.network, adapter_name=name)
        self.adapters.append(name)
        for module in self.network.modules():
            if isinstance(module, BaseTunerLayer):
                module.set_adapter(self.adapters)
        for key, parameter in self.network.named_parameters():
            parameter.requires_grad_(f".{name}." in key and ".lora_" in key)
        self.network.to(self.device)

    def start_task(self, task: Task) -> None:
        if self.options.scope == "task":
            self._add(f"task{task.index}")
        super().start_task(task)

    def train(self, mode: bool = True) -> Lora:
        """The encoder's own layers stay in evaluation mode: only adapters and the head learn."""
        super().train(mode)
        if self.network is not None:
            self.network.eval()
        return self

    def saves(self, key: str) -> bool:
        """Adapters and head; the encoder itself is not repeated."""
        return not key.startswith("network.") or ".lora_" in key

    def get_extra_state(self) -> list[str]:
        return list(self.adapters)

    def set_extra_state(self, state: Sequence[str]) -> None:
        for name in state:
            if name not in self.adapters:
                self._add(name)


def adaptable(module: nn.Module) -> bool:
    """Linear layers and convolutions that an adapter of the same shape can stand beside."""
    # Subclasses of Conv2d, such as timm's Conv2dSame, pad by the size of their input; an adapter would not.
    return isinstance(module, nn.Linear) or (type(module) is nn.Conv2d and module.groups == 1)
