"""Progress of a run (a bar over a method's tasks, one over the steps of a task, a line a task), and what a task costs:
wall seconds and the highest resident memory of the process meanwhile."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import lightning as L
import psutil
from rich.console import Console

from kc.process import give_back
from kc.progress import Bar, bars, one_bar


class CostMeter:
    """Context manager; `seconds` and `peak_rss_bytes` are final on exit or after `stop()`.

    The peak is sampled 50 times a second, because the operating system's own maximum never falls again and would
    charge every method with the largest one before it. For the same reason what others freed is given back first.
    """

    def __init__(self, interval: float = 0.02) -> None:
        self.interval = interval
        self.seconds = 0.0
        self.peak_rss_bytes = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            self.peak_rss_bytes = max(self.peak_rss_bytes, process.memory_info().rss)
            if self._stop.wait(self.interval):
                return

    def __enter__(self) -> CostMeter:
        give_back()
        self._start = time.perf_counter()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the measurement; a second call changes nothing."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self.seconds = time.perf_counter() - self._start


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
