"""The comparison as one table (terminal, Markdown, LaTeX, CSV)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kc.errors import visible
from kc.files import csv_text
from kc.progress import Plain
from kc.report import words
from kc.report.merge import MergedMethod, Stat, merge_seeds
from kc.report.records import METRIC_NAMES, Results
from kc.report.sentences import sentences


@dataclass(frozen=True)
class Column:
    """One quantity of the table; `better` says which end wins, `short` fits a terminal heading."""

    key: str
    title: str
    short: str
    better: Literal["high", "low"]
    text: Callable[[float, float], str]

    @property
    def arrow(self) -> str:
        """Up or down: where better values lie."""
        return "↑" if self.better == "high" else "↓"


COLUMNS = (
    Column("average", "Average", "average", "high", words.points),
    Column("average_incremental", "Average incremental", "average\nincremental", "high", words.points),
    Column("forgetting", "Forgetting", "forgetting", "low", words.points),
    Column("backward_transfer", "Backward transfer", "backward\ntransfer", "high", words.points),
    Column("forward_transfer", "Forward transfer", "forward\ntransfer", "high", words.points),
    Column("seconds", "Time", "time", "low", words.seconds),
    Column("peak_rss_bytes", "Peak memory", "peak\nmemory", "low", words.size),
    Column("stored_bytes", "Stored", "stored", "low", words.size),
    Column("trained_parameters", "Trained parameters", "trained\nparameters", "low", words.count),
)
# What the page adds: half of the runs cannot know it, so it would cost the terminal a column of dashes.
INTRANSIGENCE = Column("intransigence", "Intransigence", "intran-\nsigence", "low", words.points)

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "]": "{]}",
    "±": r"$\pm$", "−": "$-$", "–": "--", "×": r"$\times$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
}  # fmt: skip
"""Brackets are wrapped: at the start of a row LaTeX would read them as the argument of the line break before."""


@dataclass(frozen=True)
class Cell:
    """One value: its text, the numbers behind it (`value` NaN if undefined, `deviation` over the seeds NaN for one
    seed), whether it wins its column, its footnote (from 1)."""

    text: str
    value: float
    deviation: float = math.nan
    best: bool = False
    note: int | None = None

    @property
    def marked(self) -> str:
        """The text with a superscript footnote number."""
        digits = str(self.note).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")) if self.note else ""
        return self.text + digits


@dataclass(frozen=True)
class Grid:
    """The table before any layout: `cells[m][c]` of `methods[m]` and `columns[c]`, and the footnotes in order."""

    title: str
    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


def grid(results: Results, columns: tuple[Column, ...] = COLUMNS) -> Grid:
    """Every quantity of every method, best ones marked, reasons of undefined values numbered.

    A column in which no method has a value stays: its absence would hide that it is undefined.
    """
    merged = merge_seeds(results)
    reasons: dict[tuple[str, str], list[str]] = {}
    for column in columns:
        for m in merged:
            if column.key in METRIC_NAMES and (reason := m.undefined.get(column.key)):
                reasons.setdefault((column.title.lower(), reason), []).append(m.name)
    numbers = {key: i + 1 for i, key in enumerate(reasons)}
    every = len(merged)
    notes = tuple(
        f"{title}{'' if len(names) == every else ' of ' + words.listing(names, 9)}: {reason}"
        for (title, reason), names in reasons.items()
    )
    table = [[_cell(m, column, numbers) for column in columns] for m in merged]
    for c, column in enumerate(columns):
        known = [row[c].value for row in table if not math.isnan(row[c].value)]
        if len(known) < 2:
            continue  # nothing to win against
        top = max(known) if column.better == "high" else min(known)
        shown = {column.text(v, math.nan) for v in known}
        for row in table:
            # Compared as printed: of two values that read the same, neither is better.
            best = len(shown) > 1 and column.text(row[c].value, math.nan) == column.text(top, math.nan)
            row[c] = replace(row[c], best=best)
    return Grid(headline(results), tuple(m.name for m in merged), columns, tuple(map(tuple, table)), notes)


def all_columns(results: Results) -> tuple[Column, ...]:
    """Those of the page and of files: intransigence where joint training ran."""
    return (*COLUMNS, INTRANSIGENCE) if any(m.metrics.intransigence is not None for m in results.methods) else COLUMNS


def _cell(m: MergedMethod, column: Column, numbers: dict[tuple[str, str], int]) -> Cell:
    if column.key in METRIC_NAMES:
        name = column.key
        stat: Stat = m.metrics[name]
        note = numbers.get((column.title.lower(), m.undefined.get(name, "")))
    else:
        stat, note = m.cost[column.key], None
        if column.key == "stored_bytes" and m.all_images:
            return Cell("all images", math.nan)
    return Cell(column.text(stat.mean, stat.deviation), stat.mean, stat.deviation, note=note)


def headline(results: Results) -> str:
    """`digit-scenes, 10 tasks, overlapped, seed 0: mIoU × 100`."""
    metrics = list(dict.fromkeys(words.metric_title(m.metric) for m in results.methods))
    n = len(results.tasks)
    parts = [results.benchmark, f"{n} task{'s' if n > 1 else ''}", results.setting]
    if results.split:
        parts.insert(1, f"split {results.split}")
    if (stream := results.config.get("stream", "class")) != "class":
        parts.append(f"{stream} stream")
    seeds = ", ".join(map(str, results.seeds))
    parts.append(f"seed{'s' if len(results.seeds) > 1 else ''} {seeds}")
    spread = ", mean ± deviation" if len(results.seeds) > 1 else ""
    return f"{', '.join(parts)}: {' / '.join(metrics)} × 100{spread}"


def table(results: Results, *, upright: bool = False) -> Table:
    """The comparison for a terminal; best values bold. `upright` puts the methods side by side (narrow terminals).

    Title and footnotes are not part of it: `show` prints them, `grid` has them.
    """
    g = grid(results)
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))

    def styled(cell: Cell) -> Text:
        return Text(cell.marked, style="bold" if cell.best else "", no_wrap=True)

    if upright:
        out.add_column("", no_wrap=True)
        for name in g.methods:
            out.add_column(Text(name), justify="right", no_wrap=True)
        for c, column in enumerate(g.columns):
            out.add_row(f"{column.title} {column.arrow}", *(styled(row[c]) for row in g.cells))
    else:
        out.add_column("method", no_wrap=True)
        for column in g.columns:
            out.add_column(f"{column.short} {column.arrow}", justify="right", no_wrap=True)
        for name, row in zip(g.methods, g.cells, strict=True):
            out.add_row(Text(name), *map(styled, row))
    return out


def show(results: Results, console: Console | None = None) -> None:
    """Print headline, table (upright where the terminal is too narrow for one row a method), footnotes, sentences."""
    console = console or Plain()
    unlimited = console.options.update(width=1000)
    # Cells are unbreakable, so the measure of a table in a very wide terminal is what it needs.
    shape = table(results)
    if console.measure(shape, options=unlimited).maximum > console.width:
        shape = table(results, upright=True)
    needed = console.measure(shape, options=unlimited).maximum
    g = grid(results)
    console.print(Text(g.title, style="bold"))
    # Too narrow even so: let the terminal break the lines rather than cut numbers off.
    shape.width = needed
    console.print(shape, crop=False, soft_wrap=needed > console.width)
    for i, note in enumerate(g.notes):
        console.print(Text(f"{Cell('', math.nan, note=i + 1).marked} {note}", style="dim"))
    for sentence in sentences(results):
        console.print(Text(sentence))


def markdown(results: Results) -> str:
    """The table as GitHub Markdown, best values bold, footnotes below; ends with a line break."""
    g = grid(results)
    lines = [
        "| " + " | ".join(["Method", *(f"{c.title} {c.arrow}" for c in g.columns)]) + " |",
        "|---|" + "---:|" * len(g.columns),
    ]
    for name, row in zip(g.methods, g.cells, strict=True):
        cells = [f"**{c.marked}**" if c.best else c.marked for c in row]
        lines.append("| " + " | ".join([escape_markdown(name), *cells]) + " |")
    lines += ["", f"{escape_markdown(g.title)}."]
    lines += [f"{Cell('', math.nan, note=i + 1).marked} {escape_markdown(note)}." for i, note in enumerate(g.notes)]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """`text` as LaTeX prints it in text mode, on one line; letters of other alphabets stay UTF-8."""
    return "".join(_LATEX.get(c, c) for c in " ".join(visible(text).split()))


def escape_markdown(text: str) -> str:
    """`text` as Markdown prints it, on one line: no HTML, no link, no cell of a table of its own."""
    return re.sub(r"[\\`*_{}\[\]<>|&$~#!]", r"\\\g<0>", " ".join(visible(text).split()))


def latex(results: Results) -> str:
    r"""The table as a LaTeX `tabular` (booktabs), best values bold, footnotes below; to be read by `\input`."""
    g = grid(results)
    heads = ["Method", *(f"{c.title} {c.arrow}" for c in g.columns)]
    lines = [
        r"% needs \usepackage{booktabs}; a wide table fits with \resizebox{\textwidth}{!}{\input{...}}",
        r"\begin{tabular}{l" + "r" * len(g.columns) + "}",
        r"\toprule",
        " & ".join(map(escape_latex, heads)) + r" \\",
        r"\midrule",
    ]
    for name, row in zip(g.methods, g.cells, strict=True):
        lines.append(" & ".join([escape_latex(name), *map(_latex_cell, row)]) + r" \\")
    lines.append(r"\bottomrule")
    notes = [escape_latex(g.title), *(f"{_mark(i + 1)} {escape_latex(note)}" for i, note in enumerate(g.notes))]
    wide = len(heads)
    lines += [rf"\multicolumn{{{wide}}}{{l}}{{\footnotesize {note}.}} \\" for note in notes]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    return text + (_mark(cell.note) if cell.note else "")


def _mark(note: int) -> str:
    return rf"\textsuperscript{{{note}}}"


def table_csv(results: Results) -> str:
    """One row a method: each quantity as a plain number and its deviation over the seeds, empty where undefined.

    Scores are fractions, times seconds, sizes bytes. `best_in` names the columns that the method wins.
    """
    g = grid(results, (*COLUMNS, INTRANSIGENCE))
    keys = [c.key for c in g.columns]
    rows: list[list[object]] = [["method", *(head for key in keys for head in (key, f"{key}_deviation")), "best_in"]]
    for name, row in zip(g.methods, g.cells, strict=True):
        numbers = ["" if math.isnan(v) else v for cell in row for v in (cell.value, cell.deviation)]
        rows.append([name, *numbers, " ".join(key for key, cell in zip(keys, row, strict=True) if cell.best)])
    return csv_text(rows)
