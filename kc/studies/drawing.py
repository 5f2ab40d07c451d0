"""Lines over a grid of rows, in the look of the project's other figures."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kc.report.style import looks
from kc.studies.record import Row, column, dress

TITLES = {"pq": "PQ × 100", "miou": "mIoU × 100", "accuracy": "accuracy of regions × 100",
          "mean_class_accuracy": "mean class accuracy × 100"}  # fmt: skip


def lines(ax: Axes, rows: Sequence[Row], x: str, y: str, by: str, *, x_name: str, title: str = "") -> None:
    """One line of column `y`, times 100, over `x` for each value of column `by`, in the order of the rows."""
    names = list(dict.fromkeys(str(row[by]) for row in rows))
    look = looks(names)
    for name in names:
        of_line = [row for row in rows if str(row[by]) == name]
        one = look[name]
        (line,) = ax.plot(
            column(of_line, x), 100 * column(of_line, y), color=one.color, marker=one.marker, markersize=4.5,
            markeredgewidth=0, linewidth=1.6, label=name,
        )  # fmt: skip
        if one.dash:
            line.set_dashes(one.dash)
    dress(ax, title, x_name, TITLES.get(y, y))


def plain_log(ax: Axes) -> None:
    """A logarithmic x axis whose numbers are written out, at 1, 2 and 5 of each power: powers of ten leave a panel that
    spans less than one without a number, and matplotlib's own numbers between them run into each other."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
