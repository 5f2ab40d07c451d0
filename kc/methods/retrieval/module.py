"""What all methods share that learn in one pass without an optimiser."""

from __future__ import annotations

import torch

from kc.methods.base import Batch, Context
from kc.methods.module import Method
from kc.types import Task


class OnePassMethod(Method):
    """One epoch, no gradient: `observe` sees each batch once. What commits rows to a memory is `Remembers` too."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.automatic_optimization = False
        self.needs_raw = context.kind != "classification"
        self.task: Task | None = None
        # Lightning's DDP refuses a module without a parameter. It takes part in nothing.
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def start_task(self, task: Task) -> None:
        """Note which classes the labels of this task may name."""
        self.task = task

    def observe(self, batch: Batch) -> None:
        """Take what is to be learned from one batch."""
        raise NotImplementedError

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One look at a batch; there is no loss."""
        self.observe(batch)

    def configure_optimizers(self) -> None:
        """Nothing is optimised."""
        return None

    def saves(self, key: str) -> bool:
        """All but the parameter that is none."""
        return key != "unused"

    def trained_parameters(self) -> int:
        """No parameter is trained."""
        return 0
