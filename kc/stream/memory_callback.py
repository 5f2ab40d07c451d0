"""Takes the rows that a retrieval method stages during a task and commits them once, when the task ends."""

from __future__ import annotations

from typing import Any

import lightning as L

from kc.methods.retrieval.module import RetrievalModule


class MemoryCallback(L.Callback):
    """All or nothing: a run that is killed within a task leaves the memory as the last task left it."""

    def __init__(self, task: int) -> None:
        self.task = task
        self.new_rows = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stage what the method saw in this batch."""
        memory = getattr(pl_module, "memory", None)
        if memory is None or not isinstance(pl_module, RetrievalModule):
            return
        for rows in pl_module.staged:
            memory.add(rows, self.task)
        pl_module.staged = []

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Commit the task, also when it brought no row: the version must exist to be replayed."""
        memory = getattr(pl_module, "memory", None)
        if memory is not None:
            self.new_rows = memory.commit(self.task)
