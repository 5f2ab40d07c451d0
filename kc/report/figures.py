"""Curves and heat maps of a run as files, without pyplot: nothing here touches matplotlib's global state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from kc.report import style, words
from kc.report.merge import MergedMethod, merge_seeds
from kc.report.records import FloatArray, Results
from kc.report.style import INK, Look, label_axes, plain_axes
from kc.report.tables import headline

_PANEL = (3.5, 2.75)  # inches: two panels fill a page of text
_NUMBERS_UP_TO = 12  # tasks; beyond, numbers in the cells of a heat map would overlap
_NUMBERS_AN_INCH = 4.4  # the same in a figure for a paper
_PAGE = 9.0  # inches of height that a figure may take, unless its panels would be lower than one inch
_SMALLEST = 5.5  # points: below, print is not read


@dataclass(frozen=True)
class PaperSize:
    """A figure as wide as the column of a paper: `width` in inches, curves and matrices in a row, share of the text
    size on a screen.

    Such a figure has no title, because in a paper the caption says what it shows.
    """

    name: str
    width: float
    columns: int
    squares: int
    text: float


PAPER_SIZES = (PaperSize("one-column", 3.4, 1, 2, 0.8), PaperSize("two-columns", 7.0, 3, 3, 0.8))


def paper(results: Results, folder: Path) -> list[Path]:
    """Write every figure as PNG (300 dots an inch) and SVG in both `PAPER_SIZES`; returns the files.

    Raises RunError when one cannot be written.
    """
    written = []
    for name, draw in (("average", average), ("curves", curves), ("matrices", heatmap), ("cost", cost)):
        for size in PAPER_SIZES:
            for suffix in ("png", "svg"):
                written.append(folder / f"{name}-{size.name}.{suffix}")
                draw(results, written[-1], size)
    return written


def average(results: Results, path: Path, size: PaperSize) -> None:
    """The score on all seen classes of every method over the stream, each named at the end of its line."""
    merged = merge_seeds(results)
    figure, (ax,) = _panels(1, size=size)
    top = ceiling(merged)
    _average(ax, merged, style.looks([m.name for m in merged]), top)
    _style_axes(ax, len(results.tasks), top, room=0.32 if size.columns == 1 else 0.2)
    label_axes(ax, "", "tasks learned", _score(merged))
    _write(figure, path, size, results)


def cost(results: Results, path: Path, size: PaperSize) -> None:
    """The average score of every method against its seconds of learning and against the bytes that it keeps."""
    merged = merge_seeds(results)
    look = style.looks([m.name for m in merged])
    figure, axes = _panels(2, size=size)
    for ax, (key, title, unit) in zip(axes, style.COSTS, strict=True):
        axis = style.LogAxis.over([m.cost[key].mean for m in merged], unit)
        known = [m for m in merged if not math.isnan(m.metrics["average"].mean)]
        for m in known:
            stat, one = m.metrics["average"], look[m.name]
            spread = None if math.isnan(stat.deviation) else 100 * stat.deviation
            ax.errorbar(
                axis.at(m.cost[key].mean), 100 * stat.mean, spread, color=one.color, marker=one.marker, label=m.name,
                linestyle="none", markersize=6, markeredgewidth=0, capsize=2,
            )  # fmt: skip
        ax.set(xlim=(-0.05, 1.05), ylim=(0, ceiling(merged)))
        ax.set_xticks([at for at, _ in axis.ticks], labels=[text for _, text in axis.ticks])
        plain_axes(ax, labelleft=True)
        label_axes(ax, x=title, y=f"average {_score(merged)}")
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside upper center", ncols=2 * size.columns, frameon=False, fontsize=8.5,
            labelcolor=INK,
        )  # fmt: skip
    _write(figure, path, size, results)


def curves(results: Results, path: Path, size: PaperSize | None = None) -> None:
    """One panel a method (score on each task over the stream) and one with the score on seen classes of all methods.

    Lines start where their task is learned. With several seeds: means, and bands of one deviation. The suffix of
    `path` chooses the format (.png, .svg, .pdf). Raises RunError when the file cannot be written.
    """
    merged = merge_seeds(results)
    look = style.looks([m.name for m in merged])
    figure, axes = _panels(len(merged) + 1, size=size)
    columns = _in_a_row(len(axes), size)
    top = ceiling(merged)
    for ax, m in zip(axes, merged, strict=False):
        _tasks(ax, m, look[m.name])
        if size is not None:
            ax.set_title("", loc="right")  # no room beside a long name; the caption says it
    _average(axes[len(merged)], merged, look, top)
    n = len(results.tasks)
    for index, ax in enumerate(axes):
        _style_axes(ax, n, top, room=0.32 if index == len(merged) else 0.0)
        label_axes(
            ax,
            x="tasks learned" if index + columns >= len(axes) else None,
            y=_score(merged) if index % columns == 0 else None,
        )
    colors = ListedColormap([style.task_color(i, n) for i in range(n)])
    scale = ScalarMappable(BoundaryNorm(np.arange(n + 1) + 0.5, n), colors)
    bar = figure.colorbar(scale, ax=axes, fraction=0.025, pad=0.015, aspect=32)
    ticks = list(range(1, n + 1, max(1, math.ceil(n / 20))))
    bar.set_ticks(ticks, labels=[str(i) for i in ticks])
    bar.minorticks_off()
    _style_bar(bar, "score on task", length=0)
    _write(figure, path, size, results)


def heatmap(results: Results, path: Path, size: PaperSize | None = None) -> None:
    """The score matrix of every method, times 100: row = tasks learned, column = task scored; hatched = undefined.

    The suffix of `path` chooses the format. Raises RunError when the file cannot be written.
    """
    merged = merge_seeds(results)
    figure, axes = _panels(len(merged), square=True, size=size)
    n = len(results.tasks)
    numbers = n <= _NUMBERS_UP_TO
    if size is not None:
        numbers = n <= _NUMBERS_AN_INCH * size.width / _in_a_row(len(axes), size, square=True)
    for ax, m in zip(axes, merged, strict=True):
        _cells(ax, m.matrix.mean, numbers)
        label_axes(ax, m.name, "scored on task", "after task")
        ticks = range(1, n + 1, max(1, math.ceil(n / 12)))
        ax.set(xticks=ticks, yticks=ticks)
        ax.tick_params(labelsize=8, colors=INK, length=0)
        ax.set(xlim=(0.5, n + 0.5), ylim=(n + 0.5, 0.5))
    scale = ScalarMappable(Normalize(0, 100), matplotlib.colormaps["cividis"])
    _style_bar(figure.colorbar(scale, ax=axes, fraction=0.03, pad=0.015, aspect=28), _score(merged))
    _write(figure, path, size, results)


def _score(merged: Sequence[MergedMethod]) -> str:
    return f"{words.metric_title(merged[0].metric)} × 100"


def _style_bar(bar: Colorbar, title: str, **ticks: Any) -> None:
    bar.set_label(title, color=INK, fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=INK, **ticks)
    bar.outline.set_visible(False)


def _in_a_row(n: int, size: PaperSize | None, *, square: bool = False) -> int:
    """Panels in a row. On a screen 4 stand two by two, 7 and 8 in rows of four, the rest in rows of three."""
    if size is None:
        return {1: 1, 2: 2, 4: 2, 7: 4, 8: 4}.get(n, 3)
    return min(n, size.squares if square else size.columns)


def _panels(n: int, *, square: bool = False, size: PaperSize | None = None) -> tuple[Figure, list[Axes]]:
    columns = _in_a_row(n, size, square=square)
    rows = math.ceil(n / columns)
    if size is None:
        (width, height), more = (3.3, 3.2) if square else _PANEL, (0.8, 0.35)
    else:
        width, more = size.width / columns, (0.0, 0.2)
        height = min(0.95 * width if square else min(max(0.55 * width, 1.85), 2.8), max(_PAGE / rows, 1.0))
    return style.make_axes(n, columns, (columns * width + more[0], rows * height + more[1]), share_y=not square)


def ceiling(merged: Sequence[MergedMethod]) -> float:
    """Upper end of the score axis in points: a round number above everything drawn, at most 100."""
    values = np.concatenate([np.concatenate([np.tril(m.matrix.mean).ravel(), m.seen.mean]) for m in merged])
    known = values[~np.isnan(values)]
    return min(100.0, 10.0 * math.ceil(10 * float(known.max()) + 0.3)) if known.size else 100.0


def _line(
    ax: Axes, x: FloatArray, y: FloatArray, spread: FloatArray, color: str, width: float, look: Look | None = None
) -> None:  # fmt: skip
    (line,) = ax.plot(x, 100 * y, color=color, linewidth=width, zorder=3)
    line.set(marker=look.marker if look else "o", markersize=4.5 if look else 2.6, markeredgewidth=0)
    if look and look.dash:
        line.set_dashes(look.dash)
    if not np.isnan(spread).all():
        ax.fill_between(x, 100 * (y - spread), 100 * (y + spread), color=color, alpha=0.18, linewidth=0, zorder=2)


def _tasks(ax: Axes, m: MergedMethod, look: Look) -> None:
    n = len(m.matrix.mean)
    after = np.arange(1, n + 1, dtype=np.float64)
    # A wide pale band under the thin lines: the summary must not hide what it summarises.
    ax.plot(after, 100 * m.seen.mean, color=look.color, linewidth=6, alpha=0.35, zorder=1, solid_capstyle="round")
    for i in range(n):
        _line(ax, after[i:], m.matrix.mean[i:, i], m.matrix.deviation[i:, i], style.task_color(i, n), 1.3)
    label_axes(ax, m.name)
    ax.set_title("wide line: all seen classes", loc="right", fontsize=8, color="#666666")


def _average(ax: Axes, merged: Sequence[MergedMethod], look: dict[str, Look], top: float) -> None:
    """Every method's score on seen classes, named at the end of its line."""
    ends: list[tuple[float, str]] = []
    for m in merged:
        after, seen = np.arange(1, len(m.seen.mean) + 1, dtype=np.float64), m.seen.mean
        _line(ax, after, seen, m.seen.deviation, look[m.name].color, 1.9, look[m.name])
        known = seen[~np.isnan(seen)]
        ends.append((100 * float(known[-1]) if known.size else 0.0, m.name))
    ends.sort()
    n = len(merged[0].seen.mean)
    for (y, name), at in zip(ends, spread_apart([y for y, _ in ends], 0.075 * top), strict=True):
        ax.annotate(
            name, (n, y), (n + 0.06 * n, at), fontsize=8.5, color=INK, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": look[name].color, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip
    label_axes(ax, "all seen classes")


def spread_apart(heights: Sequence[float], gap: float) -> list[float]:
    """Sorted heights moved as little as a greedy pass can so that neighbours are at least `gap` apart."""
    placed: list[list[float]] = []  # runs of labels that touch, each centred on the mean of what it labels
    for height in heights:
        placed.append([height])
        while len(placed) > 1 and _low(placed[-1], gap) < _low(placed[-2], gap) + gap * len(placed[-2]):
            last = placed.pop()
            placed[-1] += last
    return [_low(run, gap) + gap * i for run in placed for i in range(len(run))]


def _low(run: Sequence[float], gap: float) -> float:
    return sum(run) / len(run) - gap * (len(run) - 1) / 2


def _style_axes(ax: Axes, n: int, top: float, room: float) -> None:
    """Axes and grid; `room` is the share of the width kept free at the right for names."""
    ax.set(xlim=(0.7, (n + 0.3) + room * n), ylim=(-0.02 * top, top))
    step = max(1, math.ceil(n / 10))
    ax.set_xticks(range(1, n + 1, step))
    plain_axes(ax, labelleft=True)


def _cells(ax: Axes, matrix: FloatArray, numbers: bool) -> None:
    n = len(matrix)
    ax.set_facecolor("#eeeeee")
    colors = matplotlib.colormaps["cividis"]
    shown, extent = np.ma.masked_invalid(100 * matrix), (0.5, n + 0.5, n + 0.5, 0.5)
    ax.imshow(shown, cmap=colors, vmin=0, vmax=100, extent=extent)
    hatched: dict[str, Any] = {"facecolor": "none", "edgecolor": "#bdbdbd", "hatch": "////", "linewidth": 0}
    for t, i in np.argwhere(np.isnan(matrix)):
        ax.add_patch(Rectangle((i + 0.5, t + 0.5), 1, 1, **hatched))
    if numbers:
        for t, i in np.argwhere(~np.isnan(matrix)):
            ink = style.ink_on(style.score_color(matrix[t, i]))
            ax.text(i + 1, t + 1, f"{100 * matrix[t, i]:.0f}", ha="center", va="center", color=ink, fontsize=7)
    ax.spines[:].set_visible(False)


def _write(figure: Figure, path: Path, size: PaperSize | None, results: Results) -> None:
    if size is None:
        figure.suptitle(headline(results), color=INK, fontsize=10, x=0.01, ha="left")
    else:
        for ax in figure.axes:
            ax.tick_params(labelsize=max(8 * size.text, _SMALLEST))
        for text in figure.findobj(Text):
            text.set_fontsize(max(float(text.get_fontsize()) * size.text, _SMALLEST))
    style.write_figure(figure, path, 300 if size else 150)
