"""What commands print: plain lines, tables, and one progress bar after another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console

from kc import progress


class Terminal(Console):
    """Text is printed as it is: brackets are no markup, numbers get no colour."""

    def __init__(self) -> None:
        # In a file or a pipe there is no width to keep to.
        super().__init__(markup=False, highlight=False, width=None if sys.stdout.isatty() else 160)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line, which stays one line."""
        self.print(text, style=style, soft_wrap=True)


@contextmanager
def bars(unit: str = "images") -> Iterator[Callable[[str, int, int | None], Any]]:
    """A function (name, done, total) that draws one bar a name, one after another, on standard error."""
    with progress.bars(Console(stderr=True)) as drawn, ExitStack() as open_bars:
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
