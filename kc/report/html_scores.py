"""The sections of a report's page that show scores: tables, curves and matrices as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np

from kc.report import tables, words
from kc.report.charts import Point, Scale, Series, cost_chart, line_chart
from kc.report.figures import ceiling
from kc.report.merge import NO_STAT, Curve, MergedMethod
from kc.report.records import FloatArray, Results
from kc.report.style import COSTS, Look, ink_on, score_color

_OPEN_UP_TO = 30  # rows of a table that is shown unfolded
_HEADS: Final = ("accuracy", "pq", "sq", "rq", "ap", "miou")
"""Metrics in the order in which people ask for them; others follow by name."""


def _value(value: float) -> str:
    """A `data-value` to sort by; empty for undefined."""
    return "" if math.isnan(value) else f"{value:.6g}"


def _panels(figures: Sequence[tuple[str, str]]) -> str:
    """Figures side by side, (name, SVG) each."""
    shown = "".join(f'<figure><div class="name">{escape(name)}</div>{svg}</figure>' for name, svg in figures)
    return f'<div class="panels">{shown}</div>'


def _table(head: str, rows: Sequence[str], css: str = "pin") -> str:
    """A table of head cells and rows of cells."""
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<table class="{css}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _head(m: MergedMethod, i: int, scope: str) -> str:
    """The head cell of method number `i`, with its colour."""
    return f'<th scope="{scope}"><i class="dot m{i}"></i>{escape(m.name)}</th>'


def _scroll(label: str, content: str) -> str:
    """A box that scrolls sideways on a narrow screen, reachable by keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{content}</div>\n'


def comparison(results: Results, merged: Sequence[MergedMethod]) -> str:
    """The main table: a row a method, sortable."""
    g = tables.grid(results, tables.all_columns(results))
    heads = ['<th scope="col"><button type="button">Method</button></th>']
    for c in g.columns:
        first = "descending" if c.better == "high" else "ascending"
        heads.append(
            f'<th scope="col" data-first="{first}"><button type="button">{c.title}&nbsp;{c.arrow}</button></th>'
        )
    rows = []
    for i, (name, row) in enumerate(zip(g.methods, g.cells, strict=True)):
        cells = [f'<th scope="row" data-value="{escape(name)}"><i class="dot m{i}"></i>{escape(name)}</th>']
        for cell in row:
            note = f"<sup>{cell.note}</sup>" if cell.note else ""
            best = ' class="best"' if cell.best else ""
            cells.append(f'<td data-value="{_value(cell.value)}"{best}>{escape(cell.text)}{note}</td>')
        rows.append("".join(cells))
    legend = "↑ higher is better, ↓ lower is better; best values bold and underlined. A heading sorts."
    table = _table("".join(heads), rows, "sort pin")
    notes = "".join(f'<p class="soft"><sup>{i + 1}</sup> {escape(note)}</p>' for i, note in enumerate(g.notes))
    return f'<p class="soft">{legend}</p>{_scroll("Comparison of the methods", table)}{notes}'


def _lines(merged: Sequence[MergedMethod], look: dict[str, Look], of: Sequence[Curve]) -> list[Series]:
    """One line a method."""
    return [
        Series(m.name, f"m{i}", curve.mean, curve.deviation, look[m.name].dash, m.name)
        for i, (m, curve) in enumerate(zip(merged, of, strict=True))
    ]


def curves(results: Results, merged: Sequence[MergedMethod], look: dict[str, Look]) -> str:
    """Scores over the tasks, all methods and each alone."""
    n, top = len(results.tasks), ceiling(merged)
    metric = words.metric_title(merged[0].metric)
    every = _lines(merged, look, [m.seen for m in merged])
    figures = [("All methods, all seen classes", line_chart(every, f"{metric} on all seen classes, by method", top))]
    for k, m in enumerate(merged):
        lines = [Series("all seen classes", f"m{k}", m.seen.mean, m.seen.deviation, wide=True)]
        for i in range(n):
            values = m.matrix.mean[:, i].copy()
            values[:i] = math.nan  # not learned yet: the matrices below have these scores
            lines.append(Series(words.task_title(i, results.tasks[i]), f"t{i}", values, m.matrix.deviation[:, i]))
        figures.append((m.name, line_chart(lines, f"{m.name}: {metric} on each task", top)))
    bands = " Bands: one deviation over the seeds." if len(results.seeds) > 1 else ""
    intro = (
        f"<p>{escape(metric)} × 100. Thin lines: one task each, from where it is learned. Wide pale line: all classes "
        f"seen so far.{bands} Point at a line for its values; click, or Tab and arrow keys, to hold on to it.</p>"
    )
    few = range(n) if n <= 20 else range(0, n, math.ceil(n / 20))
    key = "".join(f'<li><i class="t{i}"></i>{escape(words.task_title(i, results.tasks[i]))}</li>' for i in few)
    return f'{intro}<ul class="key">{key}</ul>{_panels(figures)}'


def growth(merged: Sequence[MergedMethod], look: dict[str, Look]) -> str:
    """Forgetting and stored bytes over the tasks."""
    figures = []
    if any((~np.isnan(m.forgotten.mean)).sum() > 1 for m in merged):  # one value is in the table
        lines = _lines(merged, look, [m.forgotten for m in merged])
        values = 100 * np.concatenate([m.forgotten.mean for m in merged])
        spread = 100 * np.nan_to_num(np.concatenate([m.forgotten.deviation for m in merged]))
        top = max(10.0, 10 * math.ceil(np.nanmax(values + spread) / 10))
        scale = Scale.of_points(float(np.nanmin(values - spread)), top)
        figures.append(("Forgetting, mean of the tasks before", line_chart(lines, "forgetting by method", top, scale)))
    counted = [m for m in merged if not m.all_images]
    if counted:
        scale, unit = Scale.of_bytes(max(float(np.nanmax(m.stored.mean)) for m in counted))
        every = zip(_lines(merged, look, [m.stored for m in merged]), merged, strict=True)
        lines = [line for line, m in every if not m.all_images]
        figures.append((f"Stored, {unit}", line_chart(lines, "stored bytes by method", 0, scale)))
    intro = "Forgetting × 100: how far a task has fallen from its best score so far; below 0 it rose."
    return f"<p>{intro} Stored: what the method keeps after each task.</p>{_panels(figures)}"


def confusion(results: Results, merged: Sequence[MergedMethod]) -> str:
    """What images or pixels of old and new classes were taken for; empty where that was not recorded."""
    known = [(i, m) for i, m in enumerate(merged) if m.confusion]
    if not known:
        return ""
    heads = ("Method", "Of", "right", "as another of these", "as one of the others", "as none of them")
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    rows = []
    for i, m in known:
        for group, other in (("old", "new"), ("new", "old")):
            keys = ("right", f"as_{group}", f"as_{other}", "as_none")
            stats = [m.confusion.get(f"{group}_{key}", NO_STAT) for key in keys]
            cells = "".join(f"<td>{words.points(s.mean, s.deviation)}</td>" for s in stats)
            rows.append(f"{_head(m, i, 'row')}<td>{group} classes</td>{cells}")
    what = "images" if results.task_kind == "classification" else "pixels"
    intro = (
        f"What the {what} of old classes (all tasks before the last) and of new ones (the last task) were taken for "
        "after the last task, in per cent of each group; what is truly background is left out."
    )
    return f'<p class="soft">{intro}</p>{_scroll("Old and new classes", _table(head, rows))}'


def against_cost(merged: Sequence[MergedMethod]) -> str:
    """Average score against each cost; empty where it is undefined."""
    known = [(i, m) for i, m in enumerate(merged) if not math.isnan(m.metrics["average"].mean)]
    if not known:
        return ""
    metric, top = words.metric_title(merged[0].metric), ceiling(merged)
    figures = []
    for key, title, unit in COSTS:
        points = []
        for i, m in known:
            if key == "stored_bytes" and m.all_images:
                continue
            score, price = m.metrics["average"], m.cost[key]
            say = words.size if unit == "B" else words.seconds
            tip = f"{m.name}: {words.points(score.mean, score.deviation)} for {say(price.mean, price.deviation)}"
            points.append(Point(m.name, f"m{i}", price.mean, score.mean, score.deviation, tip))
        figures.append(f"<figure>{cost_chart(points, f'average {metric} against {title}', title, unit, top)}</figure>")
    bars = " Bars: one deviation over the seeds." if any(len(m.seeds) > 1 for m in merged) else ""
    intro = (
        f"<p>Average {escape(metric)} × 100 after the last task; better is up and left. Costs are logarithmic.{bars}"
    )
    return f'{intro}</p><div class="panels">{"".join(figures)}</div>'


def matrices(results: Results, merged: Sequence[MergedMethod]) -> str:
    """R[t, i] of each method as a heat map."""
    mean = ", mean over the seeds" if len(results.seeds) > 1 else ""
    metric = words.metric_title(merged[0].metric)
    figures = [(m.name, _scroll(f"Matrix of {m.name}", _heat(m.matrix.mean))) for m in merged]
    intro = (
        f"<p>{escape(metric)} × 100 on task <var>i</var> (column) after learning task <var>t</var> (row){mean}. "
        "Hatched: undefined.</p>"
    )
    return intro + _panels(figures)


def _heat(matrix: FloatArray) -> str:
    n = range(len(matrix))
    head = "".join(f'<th scope="col">{i + 1}</th>' for i in n)
    rows = []
    for t in n:
        cells = [f'<th scope="row">{t + 1}</th>']
        for i in n:
            score = float(matrix[t, i])
            title = f'title="after task {t + 1}, on task {i + 1}: {words.points(score)}"'
            if math.isnan(score):
                cells.append(f'<td class="hatch" {title}>{words.UNDEFINED}</td>')
            else:
                color = score_color(score)
                cells.append(f'<td style="background:{color};color:{ink_on(color)}" {title}>{100 * score:.0f}</td>')
        rows.append("".join(cells))
    return _table(f"<th>t \\ i</th>{head}", rows, "heat")


def per_class(results: Results, merged: Sequence[MergedMethod]) -> str:
    """Score of each class when learned and at the end."""
    classes = [(t, name) for t, task in enumerate(results.tasks) for name in task]
    classes = [(t, name) for t, name in classes if any(name in m.per_class for m in merged)]
    if not classes:
        return ""
    heads = ["Class", "Task", *(m.name for m in merged)]
    head = "".join(f'<th scope="col"><button type="button">{escape(h)}</button></th>' for h in heads)
    rows = []
    for t, name in classes:
        cells = [f'<th scope="row" data-value="{escape(name)}">{escape(name)}</th><td data-value="{t}">{t + 1}</td>']
        cells += [_change(m.per_class.get(name), t) for m in merged]
        rows.append("".join(cells))
    opened = " open" if len(classes) <= _OPEN_UP_TO else ""
    legend = "Score right after its task → after the last task (change). A heading sorts by change."
    return (
        f'<p class="soft">{legend}</p><details{opened}><summary>{len(classes)} classes</summary>'
        f"{_scroll('Scores of classes', _table(head, rows, 'sort pin'))}</details>"
    )


def _change(scores: FloatArray | None, task: int) -> str:
    if scores is None:
        return f'<td data-value="">{words.UNDEFINED}</td>'
    learned, final = float(scores[task]), float(scores[-1])
    change = final - learned
    text = f"{words.points(learned)} → {words.points(final)}"
    if math.isnan(change):
        return f'<td data-value="">{text}</td>'
    css = "fell" if change <= -0.0005 else "rose" if change >= 0.0005 else ""
    return f'<td data-value="{change:.6g}">{text} <span class="{css}">({words.points(change, signed=True)})</span></td>'


def final(merged: Sequence[MergedMethod]) -> str:
    """One row a metric: there are more of them than methods, and a page is taller than wide."""
    known = {n for m in merged for n, stat in m.final.items() if not math.isnan(stat.mean)}
    names = sorted(known, key=lambda n: (_HEADS.index(h) if (h := n.partition("_")[0]) in _HEADS else len(_HEADS), n))
    if not names:
        return ""
    head = '<th scope="col">Metric</th>' + "".join(_head(m, i, "col") for i, m in enumerate(merged))
    rows = []
    for name in names:
        found = [m.final.get(name, NO_STAT) for m in merged]
        cells = "".join(f"<td>{words.points(stat.mean, stat.deviation)}</td>" for stat in found)
        rows.append(f'<th scope="row">{escape(words.metric_title(name))}</th>{cells}')
    return f'<p class="soft">On all classes, × 100.</p>{_scroll("Scores after the last task", _table(head, rows))}'
