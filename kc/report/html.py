"""A run as one HTML page that works from disk: no network, no other file, readable without its script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Final

import numpy as np
from pydantic import JsonValue

from kc.files import write_atomic
from kc.report import pictures, tables, words
from kc.report.axes import COSTS
from kc.report.charts import Point, Scale, Series, cost_chart, line_chart
from kc.report.combine import Comparison
from kc.report.examples import load_examples
from kc.report.figures import ceiling
from kc.report.merge import MergedMethod, Stat, merge_seeds
from kc.report.records import FloatArray, Results
from kc.report.style import Look, ink_on, looks, score_color, task_color

_TEMPLATE: Final = Path(__file__).with_name("report.html")
_LONGEST_TITLE = 90  # characters
_OPEN_UP_TO = 30  # rows of a table that is shown unfolded

_ABSENT: Final = object()
_HEADS: Final = ("accuracy", "pq", "sq", "rq", "ap", "miou")
"""Metrics in the order in which people ask for them; others follow by name."""
_NAMED: Final = {
    "stream": "Stream",
    "class_order": "Order of classes",
    "encoder": "Encoder",
    "train": "What is trained",
    "decoder": "Decoder",
    "proposals": "Proposals",
    "limit_images": "Images a split, at most",
}
"""Settings that say what was compared, shown unfolded."""

# METHODS 5. R[t, i] is the score on task i after learning task t, both from 1 to T.
_FORMULAS: Final = (
    ("Average", "1/<var>T</var> · Σ<sub>i</sub> R[<var>T</var>, <var>i</var>]", "GEM, Lopez-Paz and Ranzato 2017"),
    ("Average incremental", "1/<var>T</var> · Σ<sub>t</sub> score on all classes seen at <var>t</var>",
     "iCaRL, Rebuffi et al. 2017"),
    ("Forgetting", "1/(<var>T</var>−1) · Σ<sub>i&lt;T</sub> (max<sub>l&lt;T</sub> R[<var>l</var>, <var>i</var>] − "
     "R[<var>T</var>, <var>i</var>]); negative where old tasks gained", "RWalk, Chaudhry et al. 2018"),
    ("Backward transfer", "1/(<var>T</var>−1) · Σ<sub>i&lt;T</sub> (R[<var>T</var>, <var>i</var>] − "
     "R[<var>i</var>, <var>i</var>])", "GEM, Lopez-Paz and Ranzato 2017"),
    ("Forward transfer", "1/(<var>T</var>−1) · Σ<sub>i≥2</sub> (R[<var>i</var>−1, <var>i</var>] − "
     "<var>b</var><sub>i</sub>), <var>b</var><sub>i</sub> the score before any learning",
     "GEM, Lopez-Paz and Ranzato 2017"),
    ("Intransigence", "mean over <var>i</var> of <var>a</var><sub>i</sub> − R[<var>i</var>, <var>i</var>], "
     "<var>a</var><sub>i</sub> from joint training", "RWalk, Chaudhry et al. 2018"),
)  # fmt: skip


def write_report(run_dir: Path, results: Results, path: Path, *, max_examples: int = 12) -> None:
    """Write the page of a run to `path`, with up to `max_examples` pictures from `run_dir / "examples"`.

    Raises DataError for an example that cannot be read, RunError when `path` cannot be written.
    """
    write_page(Comparison(results, load_examples(run_dir / "examples")), path, max_examples=max_examples)


def write_page(comparison: Comparison, path: Path, *, max_examples: int = 12) -> None:
    """Write the page of one run or of several to `path`. Raises RunError when it cannot be written."""
    results, examples = comparison.results, comparison.examples
    merged = merge_seeds(results)
    look = looks([m.name for m in merged])
    sections = [
        ("Comparison", "comparison", _comparison(results, merged)),
        ("Curves", "curves", _curves(results, merged, look)),
        ("Forgetting and what is kept", "growth", _growth(merged, look)),
        ("Score against cost", "cost", _against_cost(merged)),
        ("Score matrices", "matrices", _matrices(results, merged)),
        ("Classes: as learned and at the end", "classes", _per_class(results, merged)),
        ("Old and new classes", "confusion", _confusion(results, merged)),
        ("Scores after the last task", "final", _final(merged)),
        ("Examples", "examples", pictures.gallery(examples, [m.name for m in merged], max_examples)),
        ("Protocol", "protocol", _protocol(results)),
        ("How the metrics are defined", "formulas", _formulas(results)),
    ]
    sections = [section for section in sections if section[2]]
    nav = "".join(f'<a href="#{key}">{title.split(":")[0]}</a>' for title, key, _ in sections)
    body = [f"<header><h1>{escape(_versus(merged))}</h1>", f'<p class="soft">{escape(tables.headline(results))}</p>']
    said = [*tables.sentences(results), *comparison.notes]
    body += ["<ul class=summary>", *(f"<li>{escape(s)}</li>" for s in said), "</ul>"]
    body.append(f'<nav aria-label="Sections">{nav}</nav></header><main>')
    body += [f'<section id="{key}"><h2>{title}</h2>\n{content}</section>' for title, key, content in sections]
    body.append("</main>")
    page = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"{_versus(merged)}: {results.benchmark}"),
        colors=_colors(merged, look, len(results.tasks)),
        body="\n".join(body),
    )
    write_atomic(path, page.encode())


def _versus(merged: Sequence[MergedMethod]) -> str:
    """The methods, or how many they are where their names would fill the screen."""
    names = " · ".join(m.name for m in merged)
    return names if len(names) <= _LONGEST_TITLE else f"{len(merged)} methods compared"


def _colors(merged: Sequence[MergedMethod], look: dict[str, Look], n: int) -> str:
    """Colour classes `.m0`, `.m1`, ... of methods and `.t0`, ... of tasks; on dark paper the tasks are lightened."""
    css = [f".m{i} {{ --c: {look[m.name].color}; }}" for i, m in enumerate(merged)]
    css += [f".t{i} {{ --c: {task_color(i, n)}; }}" for i in range(n)]
    dark = " ".join(f".t{i} {{ --c: {task_color(i, n, dark=True)}; }}" for i in range(n))
    return "\n".join([*css, f"@media screen and (prefers-color-scheme: dark) {{ {dark} }}"])


def _value(value: float) -> str:
    """A `data-value` to sort by; empty for undefined."""
    return "" if math.isnan(value) else f"{value:.6g}"


def _scroll(label: str, content: str) -> str:
    """A box that scrolls sideways on a narrow screen, reachable by keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{content}</div>\n'


def _comparison(results: Results, merged: Sequence[MergedMethod]) -> str:
    g = tables.grid(results, (*tables.COLUMNS, tables.INTRANSIGENCE))
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
        rows.append(f"<tr>{''.join(cells)}</tr>")
    legend = "↑ higher is better, ↓ lower is better; best values bold and underlined. A heading sorts."
    table = f'<table class="sort pin"><thead><tr>{"".join(heads)}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    notes = "".join(f'<p class="soft"><sup>{i + 1}</sup> {escape(note)}</p>' for i, note in enumerate(g.notes))
    return f'<p class="soft">{legend}</p>{_scroll("Comparison of the methods", table)}{notes}'


def _curves(results: Results, merged: Sequence[MergedMethod], look: dict[str, Look]) -> str:
    n, top = len(results.tasks), ceiling(merged)
    metric = words.metric_title(merged[0].metric)
    every = [Series(m.name, f"m{i}", m.seen, m.seen_deviation, look[m.name].dash, m.name) for i, m in enumerate(merged)]
    figures = [("All methods, all seen classes", line_chart(every, f"{metric} on all seen classes, by method", top))]
    for k, m in enumerate(merged):
        lines = [Series("all seen classes", f"m{k}", m.seen, m.seen_deviation, wide=True)]
        for i in range(n):
            values = m.matrix[:, i].copy()
            values[:i] = math.nan  # not learned yet: the matrices below have these scores
            lines.append(Series(words.task_title(i, results.tasks[i]), f"t{i}", values, m.matrix_deviation[:, i]))
        figures.append((m.name, line_chart(lines, f"{m.name}: {metric} on each task", top)))
    bands = " Bands: one deviation over the seeds." if len(results.seeds) > 1 else ""
    intro = (
        f"<p>{escape(metric)} × 100. Thin lines: one task each, from where it is learned. Wide pale line: all classes "
        f"seen so far.{bands} Point at a line for its values; click, or Tab and arrow keys, to hold on to it.</p>"
    )
    few = range(n) if n <= 20 else range(0, n, math.ceil(n / 20))
    key = "".join(f'<li><i class="t{i}"></i>{escape(words.task_title(i, results.tasks[i]))}</li>' for i in few)
    panels = "".join(f'<figure><div class="name">{escape(name)}</div>{svg}</figure>' for name, svg in figures)
    return f'{intro}<ul class="key">{key}</ul><div class="panels">{panels}</div>'


def _growth(merged: Sequence[MergedMethod], look: dict[str, Look]) -> str:
    figures = []
    if any(not np.isnan(m.forgotten).all() for m in merged):
        lines = [
            Series(m.name, f"m{i}", m.forgotten, m.forgotten_deviation, look[m.name].dash, m.name)
            for i, m in enumerate(merged)
        ]
        values = 100 * np.concatenate([m.forgotten for m in merged])
        spread = 100 * np.nan_to_num(np.concatenate([m.forgotten_deviation for m in merged]))
        top = max(10.0, 10 * math.ceil(np.nanmax(values + spread) / 10))
        scale = Scale.of_points(float(np.nanmin(values - spread)), top)
        figures.append(("Forgetting, mean of the tasks before", line_chart(lines, "forgetting by method", top, scale)))
    lines = [
        Series(m.name, f"m{i}", m.stored, m.stored_deviation, look[m.name].dash, m.name) for i, m in enumerate(merged)
    ]
    scale, unit = Scale.of_bytes(max(float(np.nanmax(m.stored)) for m in merged))
    figures.append((f"Stored, {unit}", line_chart(lines, "stored bytes by method", 0, scale)))
    panels = "".join(f'<figure><div class="name">{escape(name)}</div>{svg}</figure>' for name, svg in figures)
    intro = "Forgetting × 100: how far a task has fallen from its best score so far; below 0 it rose."
    return f'<p>{intro} Stored: what the method keeps after each task.</p><div class="panels">{panels}</div>'


def _confusion(results: Results, merged: Sequence[MergedMethod]) -> str:
    known = [(i, m) for i, m in enumerate(merged) if m.confusion]
    if not known:
        return ""
    answers = (("right", "right"), ("as_old", "as another old class"), ("as_new", "as another new class"),
               ("as_none", "as none of them"))  # fmt: skip
    head = "".join(f'<th scope="col">{text}</th>' for text in ("Method", "Of", *(text for _, text in answers)))
    rows = []
    for i, m in known:
        for group in ("old", "new"):
            stats = [m.confusion.get(f"{group}_{key}", Stat(math.nan, math.nan, 0)) for key, _ in answers]
            cells = "".join(f"<td>{words.points(s.mean, s.deviation)}</td>" for s in stats)
            name = f'<th scope="row"><i class="dot m{i}"></i>{escape(m.name)}</th>'
            rows.append(f"<tr>{name}<td>{group} classes</td>{cells}</tr>")
    table = f'<table class="pin"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    what = "images" if results.task_kind == "classification" else "pixels"
    intro = (
        f"What the {what} of old classes (all tasks before the last) and of new ones (the last task) were taken for "
        "after the last task, in per cent of each group."
    )
    return f'<p class="soft">{intro}</p>{_scroll("Old and new classes", table)}'


def _against_cost(merged: Sequence[MergedMethod]) -> str:
    known = [(i, m) for i, m in enumerate(merged) if not math.isnan(m.metrics["average"].mean)]
    if not known:
        return ""
    metric, top = words.metric_title(merged[0].metric), ceiling(merged)
    figures = []
    for key, title, unit in COSTS:
        points = []
        for i, m in known:
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


def _matrices(results: Results, merged: Sequence[MergedMethod]) -> str:
    mean = ", mean over the seeds" if len(results.seeds) > 1 else ""
    metric = words.metric_title(merged[0].metric)
    figures = "".join(
        f'<figure><div class="name">{escape(m.name)}</div>{_scroll(f"Matrix of {m.name}", _heat(m.matrix))}</figure>'
        for m in merged
    )
    intro = (
        f"<p>{escape(metric)} × 100 on task <var>i</var> (column) after learning task <var>t</var> (row){mean}. "
        "Hatched: undefined.</p>"
    )
    return f'{intro}<div class="panels">{figures}</div>'


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
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="heat"><thead><tr><th>t \\ i</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _per_class(results: Results, merged: Sequence[MergedMethod]) -> str:
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
        rows.append(f"<tr>{''.join(cells)}</tr>")
    table = f'<table class="sort pin"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    opened = " open" if len(classes) <= _OPEN_UP_TO else ""
    legend = "Score right after its task → after the last task (change). A heading sorts by change."
    return (
        f'<p class="soft">{legend}</p><details{opened}><summary>{len(classes)} classes</summary>'
        f"{_scroll('Scores of classes', table)}</details>"
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


def _final(merged: Sequence[MergedMethod]) -> str:
    """One row a metric: there are more of them than methods, and a page is taller than wide."""
    known = {n for m in merged for n, stat in m.final.items() if not math.isnan(stat.mean)}
    names = sorted(known, key=lambda n: (_HEADS.index(h) if (h := n.partition("_")[0]) in _HEADS else len(_HEADS), n))
    if not names:
        return ""
    head = "".join(f'<th scope="col"><i class="dot m{i}"></i>{escape(m.name)}</th>' for i, m in enumerate(merged))
    rows = []
    for name in names:
        found = [m.final.get(name, Stat(math.nan, math.nan, 0)) for m in merged]
        cells = "".join(f"<td>{words.points(stat.mean, stat.deviation)}</td>" for stat in found)
        rows.append(f'<tr><th scope="row">{escape(words.metric_title(name))}</th>{cells}</tr>')
    table = (
        f'<table class="pin"><thead><tr><th scope="col">Metric</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    return f'<p class="soft">On all classes, × 100.</p>{_scroll("Scores after the last task", table)}'


def _protocol(results: Results) -> str:
    facts = {
        "Benchmark": results.benchmark,
        "Kind": results.task_kind,
        "Split": results.split or "classes divided evenly",
        "Setting": results.setting,
        **{title: str(results.config[key]) for key, title in _NAMED.items() if results.config.get(key) is not None},
        "Seeds": ", ".join(map(str, results.seeds)),
    }
    tasks = "".join(f"<li>{escape(', '.join(task))}</li>" for task in results.tasks)
    parts = [_facts(facts), f'<h3>Tasks, in order, with their classes</h3><ol class="tasks">{tasks}</ol>']
    configs: dict[str, dict[str, JsonValue]] = {"Configuration of the run": results.config}
    for m in results.methods:
        own = {key: value for key, value in m.config.items() if results.config.get(key, _ABSENT) != value}
        configs.setdefault(f"Configuration of {m.name}, beside that", own)
    for title, config in configs.items():
        if flat := _flat(config):
            parts.append(f"<details><summary>{escape(title)}</summary>{_facts(flat)}</details>")
    for title, table in (("Versions", results.versions), ("Fingerprints", results.fingerprints)):
        if table:
            parts.append(f"<details><summary>{title}</summary>{_facts(table)}</details>")
    return "\n".join(parts)


def _facts(facts: dict[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(k)}</th><td><code>{escape(v)}</code></td></tr>' for k, v in facts.items()
    )
    return f'<table class="text"><tbody>{rows}</tbody></table>'


def _flat(value: dict[str, JsonValue], prefix: str = "") -> dict[str, str]:
    """Nested settings as `a.b` -> text."""
    out: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            out |= _flat(item, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = ", ".join(map(str, item)) if isinstance(item, list) else str(item)
    return out


def _formulas(results: Results) -> str:
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td class="formula">{formula}</td><td>{source}</td></tr>'
        for name, formula, source in _FORMULAS
    )
    notes = tables.grid(results, (*tables.COLUMNS, tables.INTRANSIGENCE)).notes
    why = "".join(f"<li>{escape(note)}</li>" for note in notes)
    undefined = f"<h3>Why values are undefined</h3><ul>{why}</ul>" if why else ""
    return (
        f"<p>R[<var>t</var>, <var>i</var>] is the score on task <var>i</var> after learning task <var>t</var>; "
        f"<var>T</var> = {len(results.tasks)}. Time is that of learning; peak memory is the largest resident size of "
        "the process; stored is what the method keeps after the last task.</p>"
        '<div class="scroll"><table class="text"><thead><tr><th>Metric</th><th>Formula</th><th>Source</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{undefined}"
    )
