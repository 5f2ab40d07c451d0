"""The comparison as text for other programs: LaTeX for a paper, CSV for a spreadsheet. Markdown is in `tables`."""

from __future__ import annotations

import csv
import io
import math

from kc.report.records import Results
from kc.report.tables import COLUMNS, INTRANSIGENCE, Cell, grid

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "]": "{]}",
    "±": r"$\pm$", "−": "$-$", "–": "--", "×": r"$\times$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "\n": " ",
}  # fmt: skip
"""Brackets are wrapped: at the start of a row LaTeX would read them as the argument of the line break before."""


def escape_latex(text: str) -> str:
    """`text` as LaTeX prints it in text mode; letters of other alphabets stay UTF-8."""
    return "".join(_LATEX.get(c, c) for c in text)


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
    buffer = io.StringIO(newline="")
    out = csv.writer(buffer, lineterminator="\n")
    keys = [c.key for c in g.columns]
    out.writerow(["method", *(head for key in keys for head in (key, f"{key}_deviation")), "best_in"])
    for name, row in zip(g.methods, g.cells, strict=True):
        numbers = ["" if math.isnan(v) else v for cell in row for v in (cell.value, cell.deviation)]
        out.writerow([name, *numbers, " ".join(key for key, cell in zip(keys, row, strict=True) if cell.best)])
    return buffer.getvalue()
