"""Lines over a grid of rows, in the look of the project's other figures."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

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
