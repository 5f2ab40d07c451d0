"""Figures of studies, in the look of the project's other figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike

from kc.report.style import GREY, INK, Look, label_axes, looks, make_axes, plain_axes
from kc.studies.base import Row, column

METRICS = {"pq": "PQ × 100", "miou": "mIoU × 100", "accuracy": "accuracy of regions × 100",
           "mean_class_accuracy": "mean class accuracy × 100"}  # fmt: skip
"""Column of a table -> its name on an axis."""
FEW = 2.5
"""Decades up to which 1, 2 and 5 of each are named on a logarithmic axis; beyond, the decades alone."""


def panels(n: int, *, width: float = 3.6, height: float = 2.9, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels (inches each), at most `columns` in a row; see `make_axes`."""
    across = min(n, columns)
    return make_axes(n, across, (across * width + 0.4, -(-n // across) * height + 0.3))


def style_axes(ax: Axes, title: str, x: str, y: str) -> None:
    """Title, names of the axes, and the plain look of the project's other figures."""
    label_axes(ax, title, x, y)
    plain_axes(ax)


def legend(ax: Axes, **options: Any) -> None:
    """A small legend without a frame."""
    ax.legend(**{"fontsize": 8, "frameon": False, **options})


def curve(ax: Axes, x: ArrayLike, y: ArrayLike, look: Look, label: str, **options: Any) -> None:
    """One line with markers in the colour, marker and dashes of `look`."""
    ax.plot(
        x, y, **{"color": look.color, "marker": look.marker, "markersize": 4, "dashes": look.dash or (), **options},
        label=label,
    )  # fmt: skip


def curves(ax: Axes, rows: Sequence[Row], x: str, y: str, by: str, *, x_name: str, title: str = "") -> None:
    """One line of column `y`, times 100, over `x` for each value of column `by`, in the order of the rows."""
    names = list(dict.fromkeys(str(row[by]) for row in rows))
    look = looks(names)
    for name in names:
        mine = [row for row in rows if str(row[by]) == name]
        curve(ax, column(mine, x), 100 * column(mine, y), look[name], name)
    style_axes(ax, title, x_name, METRICS.get(y, y))


def level(ax: Axes, y: float, label: str, linestyle: str = ":") -> None:
    """A grey horizontal line: what the lines of a panel are compared with."""
    ax.axhline(y, color=GREY, linestyle=linestyle, linewidth=1, label=label)


def bars(
    ax: Axes, names: Sequence[str], values: Sequence[float | None], colors: Sequence[str],
    *, form: str = "{:.1f}", missing: str = "–", fontsize: float = 8, margin: float = 0.15,
) -> None:  # fmt: skip
    """Horizontal bars, the first on top, each with its value written behind it; `missing` where there is none."""
    # No width rather than NaN: a bar that is not drawn would take its line, and its name, with it.
    ax.barh(names, [value or 0 for value in values], color=colors, height=0.65)
    for at, value in enumerate(values):
        text = missing if value is None else form.format(value)
        ax.text(max(value or 0, 0), at, " " + text, va="center", fontsize=fontsize, color=INK)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.margins(x=margin)


def log_axes(ax: Axes, *, x: bool = True, y: bool = False) -> None:
    """Make the chosen axes logarithmic, after everything is drawn on them, with numbers that do not run into each
    other, and never a single one."""
    if x:
        ax.set_xscale("log")
        _label_ticks(ax.xaxis, *ax.get_xlim())
    if y:
        ax.set_yscale("log")
        _label_ticks(ax.yaxis, *ax.get_ylim())


def _label_ticks(axis: Axis, low: float, high: float) -> None:
    axis.set_minor_formatter(NullFormatter())
    if math.log10(high / low) <= FEW:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
