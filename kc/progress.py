"""Progress a person can follow: a bar with rate and remaining time on a terminal, lines in a log.

A log says nothing of work that took less than two seconds, one line when longer work is done, and how far it is
after eight seconds and every half minute then.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, nullcontext
from typing import IO, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from kc.errors import visible

LATE = 2.0
"""Seconds after which a log gets its line when the work is done."""
FIRST, EVERY = 8.0, 30.0
"""Seconds after which a log says how far it is, and how often then."""

_Item = TypeVar("_Item")


class Plain(Console):
    """Text is printed as it is: brackets are no markup, numbers get no colour, control characters are spelled.

    Args:
        stderr: Print on standard error instead of standard output.
        file: Print there instead.
        width: Columns; None: those of the terminal.
    """

    def __init__(self, stderr: bool = False, file: IO[str] | None = None, width: int | None = None) -> None:
        file = file or (sys.stderr if stderr else sys.stdout)
        # Of a command's outputs (`kc.process.Clean`) the one that takes colours: text is clean by then.
        super().__init__(markup=False, highlight=False, file=getattr(file, "unchecked", file), width=width)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As of a Console, without what a text could steer a terminal with."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line, which stays one line."""
        self.print(text, style=style, soft_wrap=True)


def rate(n: float, seconds: float) -> str:
    """`12/s`, `3.4/s`, or `2.1 s each` below one a second; empty where nothing was done yet."""
    if n <= 0 or seconds <= 0:
        return ""
    if n < seconds:
        return f"{seconds / n:.1f} s each"
    return f"{n / seconds:.1f}/s" if n < 10 * seconds else f"{n / seconds:,.0f}/s"


def duration(seconds: float) -> str:
    """`34 s`, `3 min 10 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def summary(text: str, n: int, unit: str, seconds: float) -> str:
    """The line that a log gets: `encoding: 367 images in 34 s (11/s)`."""
    return f"{text}: {counted(n, unit)} {elapsed(n, seconds)}"


def counted(n: int, unit: str) -> str:
    """`1 batch`, `20 images`."""
    return f"{n:,} {re.sub('(?<=ch)es$|s$', '', unit) if n == 1 else unit}"


def elapsed(n: int, seconds: float) -> str:
    """`in 34 s (11/s)`."""
    return f"in {duration(seconds)} ({rate(n, seconds) or '0/s'})"


class RateColumn(ProgressColumn):
    """Units a second, over the last half minute."""

    def render(self, task: Task) -> Text:
        """See `rate`."""
        speed = task.finished_speed or task.speed
        return Text(rate(speed, 1.0) if speed else "", style="progress.data.speed")


def bars(console: Console) -> Progress:
    """Bars that are gone when the work is done; tasks need the field `unit`. In a log they draw nothing."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class Bar:
    """Handle of one bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self.done = 0
        self._began = time.perf_counter()

    def so_far(self) -> None:
        """Print how far it is: `encoding: 40 of 367 images in 8 s, 1 min 5 s left`."""
        task, seconds = (
            self._progress.tasks[self._progress.task_ids.index(self._task)],
            time.perf_counter() - self._began,
        )
        of, left = "", ""
        if task.total is not None:
            of = f"{self.done:,} of "
            left = f", {duration(seconds / self.done * (task.total - self.done))} left" if self.done else ""
        count = counted(int(self.done if task.total is None else task.total), task.fields["unit"])
        text = f"{of}{count} in " if task.fields["unit"] else "since "
        _print(self._progress.console, f"{task.description.strip()}: {text}{duration(seconds)}{left}")

    def advance(self, n: int = 1) -> None:
        """Mark `n` more units as done."""
        self.done += n
        self._progress.advance(self._task, n)

    def reach(self, done: int) -> None:
        """Mark `done` units as done, in all."""
        self.done = done
        self._progress.update(self._task, completed=done)

    def describe(self, text: str, total: int | None = None) -> None:
        """Change the text, and the number of units where one is given."""
        self._progress.update(self._task, description=text, total=total)


@contextmanager
def one_bar(progress: Progress, text: str, total: int | None, unit: str, line: bool | None = True) -> Iterator[Bar]:
    """A bar of `progress` for one piece of work; with `line`, a log gets one when it is done; None: it gets nothing."""
    task = progress.add_task(text, total=total, unit=unit)
    started = time.perf_counter()
    bar = Bar(progress, task)
    try:
        with now_and_then(bar.so_far) if progress.disable and line is not None else nullcontext():
            yield bar
    finally:
        progress.remove_task(task)
    seconds = time.perf_counter() - started
    if line and progress.disable and seconds >= LATE:
        _print(progress.console, summary(text, bar.done, unit, seconds))


@contextmanager
def now_and_then(say: Callable[[], None]) -> Iterator[None]:
    """Call `say` after FIRST seconds and every EVERY then, from another thread, as long as the block takes."""
    done = threading.Event()

    def run() -> None:
        wait = FIRST
        while not done.wait(wait):
            say()
            wait = EVERY

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def track(items: Iterable[_Item], text: str, console: Console, unit: str = "images") -> Iterator[_Item]:
    """The items unchanged, with a bar."""
    total = len(items) if isinstance(items, Sized) else None
    with bars(console) as progress, one_bar(progress, text, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()
