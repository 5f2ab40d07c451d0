"""The shared LightningModule of methods that learn in one pass without an optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from kc.memory.disk import Memory
from kc.memory.store.distributed import gather_rows, on_rank_0, process_rank
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
    remembers = False
    """True for methods whose rows go into a memory; only these learn in several processes."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.context = context
        self.needs_raw = context.kind != "classification"
        self.staged: list[Rows] = []
        self.task: Task | None = None
        self.memory: Memory | None = None
        # Lightning's DDP refuses a module without a parameter. It takes part in nothing.
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def store(self, task: int, n_processes: int) -> None:
        """Add what `observe` left to the memory; of several processes, what all of them saw, on rank 0."""
        staged, self.staged = self.staged, []
        for rows in gather_rows(staged) if n_processes > 1 else staged:
            self._own_memory().add(rows, task)

    def commit(self, task: int, n_processes: int) -> int:
        """Commit the task's rows, once; returns how many are new. The other processes open what rank 0 committed."""
        if n_processes == 1:
            return self._own_memory().commit(task)
        new_rows = on_rank_0(lambda: self._own_memory().commit(task))
        if process_rank():
            self.reopen()
        return new_rows

    def _own_memory(self) -> Memory:
        if self.memory is None:
            raise TypeError(f"{type(self).__name__} keeps no memory in this process")
        return self.memory

    def reopen(self) -> None:
        """See what rank 0 has committed; for the other processes of a run."""
        raise TypeError(f"{type(self).__name__} keeps no memory")

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
