"""Has a method that remembers store what it saw during a task, and commit it once, when the task ends.

Of several processes, rank 0 alone writes; the others open what it committed.
"""

from __future__ import annotations

from typing import Any

import lightning as L

from kc.methods.base import Remembers


class MemoryCallback(L.Callback):
    """All or nothing: a run that is killed within a task leaves the memory as the last task left it."""

    def __init__(self, task: int) -> None:
        self.task = task
        self.new_rows = 0
        self._committed = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store what the method saw in this batch."""
        if isinstance(pl_module, Remembers):
            pl_module.store(self.task, trainer.world_size)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Commit the task, also when it brought no row: the version must exist to be replayed."""
        if isinstance(pl_module, Remembers) and not self._committed:
            self.new_rows = pl_module.commit(self.task, trainer.world_size)
            self._committed = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A task without an image, of which only names are known, never starts to train: its version is made here."""
        self.on_train_end(trainer, pl_module)
