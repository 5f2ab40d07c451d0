"""Progress a person can follow: live bars on a terminal, one line a task in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class RunProgress:
    """One bar over a method's tasks and one over the steps of the current task; finished tasks stay as lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> RunProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False)

    @contextmanager
    def bar(self, description: str, total: int, unit: str) -> Iterator[Bar]:
        """A bar for one piece of work, gone when the work is done."""
        task = self._bars.add_task(description, total=total, unit=unit)
        try:
            yield Bar(self._bars, task)
        finally:
            self._bars.remove_task(task)


class Bar:
    """Handle of one bar."""

    def __init__(self, bars: Progress, task: Any) -> None:
        self._bars, self._task = bars, task

    def advance(self, n: int = 1) -> None:
        """Mark `n` more units as done."""
        self._bars.advance(self._task, n)

    def describe(self, text: str, total: int | None = None) -> None:
        """Change the text, and the number of units where one is given."""
        self._bars.update(self._task, description=text, total=total)


class StepProgress(L.Callback):
    """Moves a bar with the training steps of one task."""

    def __init__(self, bar: Bar, text: str) -> None:
        self.bar, self.text = bar, text
        self.started = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The number of steps is known now."""
        self.bar.describe(self.text, int(trainer.estimated_stepping_batches) if trainer.max_epochs else None)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step further."""
        self.bar.advance()
