"""The shared LightningModule of methods that learn in one pass without an optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from torch import Tensor

from kc.methods.base import Batch, Context
from kc.types import Prediction, Rows, Task


class RetrievalModule(L.LightningModule):
    """One epoch, no gradient: `observe` sees each batch once; rows it leaves in `staged` are taken by the stream's
    memory callback, which commits them all or not at all when the task ends."""

    name = "retrieval"
    train_scope = "task"
    open_vocabulary = False
    needs_raw = True
    needs_images = True

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.context = context
        self.needs_raw = context.kind != "classification"
        self.staged: list[Rows] = []
        self.task: Task | None = None

    def start_task(self, task: Task) -> None:
        """Remember which classes the labels of this task may name."""
        self.task = task
        self.staged = []

    def end_task(self, task: Task) -> None:
        """Nothing to close beside the memory, which the stream commits."""

    def observe(self, batch: Batch) -> None:
        """Take what is to be remembered from one batch."""
        raise TypeError(f"{type(self).__name__} does not say what it remembers")

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One look at a batch; there is no loss."""
        self.observe(batch)

    def configure_optimizers(self) -> None:
        """Nothing is optimised."""
        return None

    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        """Answer a batch over `vocabulary`."""
        raise TypeError(f"{type(self).__name__} does not predict")

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Nothing beside the memory."""
        return {}, {}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Nothing beside the memory."""

    def close(self) -> None:
        """No file is held open."""

    def trained_parameters(self) -> int:
        """No parameter is trained."""
        return 0

    def stored_bytes(self) -> int:
        """Bytes kept for old tasks."""
        return 0
