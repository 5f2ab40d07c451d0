"""Progress of a run: one bar over a method's tasks, one over the steps of the current task, a line a task."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import lightning as L
from rich.console import Console

from kc.progress import Bar, bars, one_bar


class RunProgress:
    """Bars while work is done; finished tasks stay as lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = bars(console)

    def __enter__(self) -> RunProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def line(self, text: str) -> None:
        """A line that stays, and stays one line in a log."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def bar(
        self, description: str, total: int | None, unit: str, line: bool | None = True
    ) -> AbstractContextManager[Bar]:
        """A bar for one piece of work, gone when the work is done; `line`: see `kc.progress.one_bar`."""
        return one_bar(self._bars, description, total, unit, line)


class StepProgress(L.Callback):
    """Moves a bar with the training steps of one task."""

    def __init__(self, bar: Bar, text: str) -> None:
        self.bar, self.text = bar, text

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bar.describe(self.text, int(trainer.estimated_stepping_batches) if trainer.max_epochs else None)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.bar.advance()
