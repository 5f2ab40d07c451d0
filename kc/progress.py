"""Progress a person can follow: a bar with rate and remaining time on a terminal, one line in a log.

Nothing is said of work that took less than two seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
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
from rich.text import Text

LATE = 2.0
"""Seconds after which a log gets its line."""

_Item = TypeVar("_Item")


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
    return f"{text}: {n:,} {unit.removesuffix('s') if n == 1 else unit} {elapsed(n, seconds)}"


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
def one_bar(progress: Progress, text: str, total: int | None, unit: str, line: bool = True) -> Iterator[Bar]:
    """A bar of `progress` for one piece of work; with `line`, a log gets one when it is done."""
    task = progress.add_task(text, total=total, unit=unit)
    started = time.perf_counter()
    bar = Bar(progress, task)
    try:
        yield bar
    finally:
        progress.remove_task(task)
    seconds = time.perf_counter() - started
    if line and progress.disable and seconds >= LATE:
        said = summary(text, bar.done, unit, seconds)
        progress.console.print(said, highlight=False, markup=False, soft_wrap=True)


def track(items: Iterable[_Item], text: str, console: Console, unit: str = "images") -> Iterator[_Item]:
    """The items unchanged, with a bar."""
    total = len(items) if isinstance(items, Sized) else None
    with bars(console) as progress, one_bar(progress, text, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()
