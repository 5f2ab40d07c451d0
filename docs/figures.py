"""Draw the figures of docs/ from the tables beside them: `python docs/figures.py` writes docs/figures/*.svg."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from kc.report.style import looks

DOCS = Path(__file__).parent


@dataclass(frozen=True)
class Drawing:
    """A figure of one table.

    `page`, `start`: the page, and how the first line of the table begins. `x`, `y`: labels of the axes. `rows`: names
    of the rows that are drawn; default: all. `bars`: columns that are drawn as groups of bars; default: a line a row,
    over the numbers in the table's head. `groups`: rows whose first cell is empty belong to the row above, a panel a
    group. `log`: the x-axis.
    """

    page: str
    start: str
    y: str
    x: str = ""
    rows: tuple[str, ...] = ()
    bars: tuple[str, ...] = ()
    groups: bool = False
    log: bool = False


FIGURES = {
    "votes": Drawing("visual_memory", "| vote | k = 1 | k = 5", "accuracy, %", "neighbours k", log=True),
    "noise": Drawing(
        "visual_memory",
        "| wrong labels, %",
        "accuracy, %",
        "wrong labels, %",
        rows=("accuracy, plurality", "accuracy, rank", "accuracy, softmax", "accuracy, tip"),
    ),
    "corruptions": Drawing("visual_memory", "| corruption | memory", "accuracy, %", "severity", groups=True),
    "migrate": Drawing("visual_memory", "| images still there", "accuracy, %", "images still there, %", log=True),
    "growth": Drawing("open_vocabulary", "| images in memory", "PQ × 100", "images in memory"),
    "other-domain": Drawing(
        "open_vocabulary",
        "| new rows in memory",
        "mIoU × 100",
        "new rows of CamVid in memory",
        rows=("tested on CamVid (mIoU; base 9.8): COCO-200 and new rows", "new rows alone"),
        log=True,
    ),
    "continual": Drawing(
        "open_vocabulary", "| method | earlier tasks", "PQ × 100", bars=("earlier tasks", "last task", "never trained")
    ),
}


def cells(line: str) -> list[str]:
    """The cells of a line of a table, without the marks of code and bold."""
    return [cell.strip().strip("`*") for cell in line.strip().strip("|").split("|")]


def table(page: str, start: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of `page` whose first line begins with `start`."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    lines = text[text.index(start) :].split("\n\n")[0].splitlines()
    return cells(lines[0]), [cells(line) for line in lines[2:]]


def number(cell: str) -> float:
    """The first number of a cell; NaN where there is none."""
    found = re.search(r"[-−]?[\d,]*\.?\d+", cell)
    return float(found[0].replace(",", "").replace("−", "-")) if found else float("nan")


def lines(ax: Axes, drawing: Drawing, head: list[str], rows: list[list[str]]) -> None:
    """A line a row."""
    n = len(rows[0])
    at = np.array([number(cell) for cell in head[len(head) - n + 1 :]])
    look = looks([row[0] for row in rows])
    for row in rows:
        style = look[row[0]]
        values = np.array([number(cell) for cell in row[1:]])
        shown = np.isfinite(at) & np.isfinite(values) & ((at > 0) | (not drawing.log))
        name = row[0].removeprefix("accuracy, ").partition("): ")[2] or row[0].removeprefix("accuracy, ")
        ax.plot(
            at[shown],
            values[shown],
            color=style.color,
            marker=style.marker,
            markersize=4,
            dashes=style.dash,
            label=name,
        )
    if drawing.log:
        ax.set_xscale("log")
    ax.set_xticks(at[np.isfinite(at) & ((at > 0) | (not drawing.log))])
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.minorticks_off()
    ax.set_xlabel(drawing.x)


def bars(ax: Axes, drawing: Drawing, head: list[str], rows: list[list[str]]) -> None:
    """A group of bars a row, a bar a column."""
    width = 0.8 / len(drawing.bars)
    for i, column in enumerate(drawing.bars):
        values = [number(row[head.index(column)]) for row in rows]
        at = np.arange(len(rows)) + (i - (len(drawing.bars) - 1) / 2) * width
        ax.bar(at, values, width, color=("#0072b2", "#e69f00", "#009e73")[i], label=column)
    ax.set_xticks(range(len(rows)), [row[0] for row in rows], rotation=30, ha="right")


def draw(drawing: Drawing) -> Figure:
    """The figure of a table."""
    head, rows = table(drawing.page, drawing.start)
    groups: dict[str, list[list[str]]] = {}
    for row in rows:
        title = (row[0] or list(groups)[-1]) if drawing.groups else ""
        part = row[1:] if drawing.groups else row
        if not drawing.rows or part[0] in drawing.rows:
            if drawing.rows and any(part[0] == other[0] for other in groups.get(title, [])):
                break  # a name that comes again belongs to the next part of the table
            groups.setdefault(title, []).append(part)
    figure = Figure(figsize=(3 * len(groups) if len(groups) > 1 else 6, 3), layout="constrained")
    for i, (ax, (title, members)) in enumerate(
        zip(figure.subplots(1, len(groups), sharey=True, squeeze=False)[0], groups.items(), strict=True)
    ):
        (bars if drawing.bars else lines)(ax, drawing, head, members)
        ax.set_title(title, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.3)
        if i == 0:
            ax.set_ylabel(drawing.y)
            ax.legend(fontsize=8, frameon=False)
    return figure


def write(folder: Path) -> list[Path]:
    """Draw all FIGURES into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, drawing in FIGURES.items():
        path = folder / f"{name}.svg"
        with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif"}):
            draw(drawing).savefig(path, metadata={"Date": None}, facecolor="white")
        written.append(path)
    return written


if __name__ == "__main__":
    for made in write(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "figures"):
        print(made)
