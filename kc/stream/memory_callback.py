"""Takes the rows that a retrieval method stages during a task and commits them once, when the task ends.

Of several processes, rank 0 alone writes; the others open what it committed.
"""

from __future__ import annotations

from typing import Any

import lightning as L

from kc.memory.distributed import gather_rows, on_rank_0
from kc.memory.rows import Memory
from kc.methods.retrieval.module import RetrievalModule


class MemoryCallback(L.Callback):
    """All or nothing: a run that is killed within a task leaves the memory as the last task left it."""

    def __init__(self, task: int) -> None:
        self.task = task
        self.new_rows = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stage what the method saw in this batch; of several processes, what all of them saw, on rank 0."""
        if not isinstance(pl_module, RetrievalModule) or not pl_module.remembers:
            return
        staged, pl_module.staged = pl_module.staged, []
        if trainer.world_size > 1:
            staged = gather_rows(staged)
        for rows in staged:
            self._memory(pl_module).add(rows, self.task)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Commit the task, also when it brought no row: the version must exist to be replayed."""
        if not isinstance(pl_module, RetrievalModule) or not pl_module.remembers:
            return
        if trainer.world_size == 1:
            self.new_rows = self._memory(pl_module).commit(self.task)
            return
        self.new_rows = on_rank_0(lambda: self._memory(pl_module).commit(self.task))
        if not trainer.is_global_zero:
            pl_module.reopen()

    def _memory(self, pl_module: RetrievalModule) -> Memory:
        assert pl_module.memory is not None
        return pl_module.memory
