"""Style of figures and pages: colours that colour-blind readers can tell apart, one a method, and the axis of costs.

Method colours are those of Okabe and Ito (2008) without the yellow that vanishes on white; line dashes and markers
repeat the distinction without colour. Ordered things grow monotonically in lightness: scores in cividis, tasks in
viridis, whose hues keep ten thin lines apart.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kc.files import write_atomic
from kc.report import words

INK, GREY = "#333333", "#7f7f7f"


@dataclass(frozen=True)
class Look:
    """How one method is drawn: `#rrggbb`, a matplotlib marker, a dash pattern in units of line width (empty: solid)."""

    color: str
    marker: str
    dash: tuple[float, ...] = ()


_FREE = (
    Look("#009e73", "^"),
    Look("#cc79a7", "v", (5, 1.5)),
    Look("#56b4e9", "P", (1.5, 1.5)),
    Look("#0072b2", "o"),
    Look("#d55e00", "s"),
    Look("#e69f00", "D", (5, 1.5)),
    Look("#7f7f7f", "X", (2, 1.5)),
)
# The four of the default command keep their colours whichever of them run; grey is the reference, not a competitor.
_KNOWN = {"knn": _FREE[3], "finetune": _FREE[4], "replay": _FREE[5], "joint": _FREE[6]}


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each method name, distinct up to seven methods; then they repeat."""
    chosen = {name: _KNOWN[name] for name in names if name in _KNOWN}
    free = [look for look in _FREE if look not in chosen.values()] or list(_FREE)
    for name in names:
        if name not in chosen:
            chosen[name] = free.pop(0)
            free = free or list(_FREE)
    return chosen


def make_axes(n: int, columns: int, size: tuple[float, float], *, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A white figure of `n` panels, `columns` in a row, `size` inches in all, without pyplot's global state."""
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = list(figure.subplots(-(-n // columns), columns, squeeze=False, sharey=share_y).flat)
    for ax in axes[n:]:
        ax.remove()
    return figure, axes[:n]


def label_axes(ax: Axes, title: str | None = None, x: str | None = None, y: str | None = None) -> None:
    """Title (left) and names of the axes; None leaves what is there."""
    if title is not None:
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    if x is not None:
        ax.set_xlabel(x, color=INK, fontsize=9)
    if y is not None:
        ax.set_ylabel(y, color=INK, fontsize=9)


def plain_axes(ax: Axes, **ticks: Any) -> None:
    """A pale grid, lines at the left and below only, small `ticks` (as `Axes.tick_params` takes them)."""
    ax.grid(True, color="#e3e3e3", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#bbbbbb")
    ax.tick_params(labelsize=8, colors=INK, length=2, **ticks)


def write_figure(figure: Figure, path: Path, dots: int = 150) -> None:
    """Write a figure, `dots` an inch, in the format of the suffix; the same figure gives the same bytes. RunError."""
    buffer, kind = io.BytesIO(), path.suffix.lstrip(".") or "png"
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(buffer, format=kind, dpi=dots, metadata={"Date": None} if kind == "svg" else None)
    write_atomic(path, buffer.getvalue())


def _hex(colormap: str, fraction: float) -> str:
    red, green, blue, _ = matplotlib.colormaps[colormap](min(max(fraction, 0.0), 1.0), bytes=True)
    return f"#{int(red):02x}{int(green):02x}{int(blue):02x}"


def score_color(score: float) -> str:
    """`#rrggbb` of a score from 0 (dark) to 1 (light)."""
    return _hex("cividis", score)


def task_color(index: int, n_tasks: int, *, dark: bool = False) -> str:
    """Colour of the line of a task: early tasks dark, late ones light, short of the end that the paper swallows
    (`dark`: for light lines on a dark page)."""
    low, high = (0.3, 1.0) if dark else (0.0, 0.88)
    return _hex("viridis", low + (high - low) * index / max(n_tasks - 1, 1))


def ink_on(color: str) -> str:
    """`#000000` or `#ffffff`, whichever has more contrast on `#rrggbb` (WCAG relative luminance)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#ffffff"


_GAP = 0.5  # steps between 0 and the first mark: log 0 has no place, but a method that keeps nothing needs one

COSTS = (("seconds", "seconds of learning", "s"), ("stored_bytes", "stored after the last task", "B"))
"""Costs that scores are drawn against: key, title, unit."""


@dataclass(frozen=True)
class LogAxis:
    """From mark `low` to mark `high`, each `step` times the one before; with `zero`, 0 stands left of `low`."""

    low: float
    high: float
    step: float
    zero: bool
    unit: str

    @classmethod
    def over(cls, values: Sequence[float], unit: str) -> LogAxis:
        """The axis that holds all `values` (at least 0, NaN left out); `unit` "s" or "B" (marks 32 times apart)."""
        step = 32.0 if unit == "B" else 10.0
        known = [v for v in values if v > 0] or [1.0]
        # Rounded, because log(1000, 10) is a little below 3.
        first = math.floor(round(math.log(min(known), step), 9))
        last = math.ceil(round(math.log(max(known), step), 9))
        return cls(step**first, step ** max(last, first + 1), step, any(v == 0 for v in values), unit)

    def at(self, value: float) -> float:
        """Place of `value` in [0, 1], from left to right."""
        gap = _GAP if self.zero else 0.0
        steps = math.log(self.high / self.low, self.step)
        return 0.0 if value <= 0 else (gap + math.log(value / self.low, self.step)) / (gap + steps)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place and text of each mark, at most seven."""
        steps = round(math.log(self.high / self.low, self.step))
        values = [self.low * self.step**i for i in range(0, steps + 1, math.ceil(steps / 6))]
        texts = [words.size(v).replace(".0 ", " ") if self.unit == "B" else f"{v:g} {self.unit}" for v in values]
        return [*([(0.0, "0")] if self.zero else []), *zip(map(self.at, values), texts, strict=True)]
