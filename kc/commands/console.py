"""What commands print: plain lines, tables, and one progress bar after another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from kc import progress
from kc.progress import Plain


class Terminal(Plain):
    """Where a command prints; in a file or a pipe there is no width to keep to."""

    def __init__(self) -> None:
        super().__init__(width=None if sys.stdout.isatty() else 160)


@contextmanager
def bars(unit: str = "images") -> Iterator[Callable[[str, int, int | None], Any]]:
    """A function (name, done, total) that draws one bar a name, one after another, on standard error."""
    with progress.bars(Plain(stderr=True)) as drawn, ExitStack() as open_bars:
        shown: dict[str, progress.Bar] = {}

        def advance(name: str, done: int, total: int | None) -> None:
            if name not in shown:
                open_bars.close()  # the one before is done
                shown[name] = open_bars.enter_context(progress.one_bar(drawn, name, total, unit))
            shown[name].reach(done)

        yield advance


def number(value: int | None) -> str:
    """With separators of thousands; empty for None."""
    return "" if value is None else f"{value:,}"
