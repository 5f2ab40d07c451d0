"""A run as one HTML page that works from disk: no network, no other file, readable without its script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from pydantic import JsonValue

from kc.files import write_atomic
from kc.report import html_scores as scores
from kc.report import pictures, tables
from kc.report.combine import Comparison
from kc.report.examples import load_examples
from kc.report.merge import MergedMethod, merge_seeds
from kc.report.records import Results
from kc.report.sentences import sentences
from kc.report.style import Look, looks, task_color

_TEMPLATE: Final = Path(__file__).with_name("report.html")
_LONGEST_TITLE = 90  # characters

_ABSENT: Final = object()
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
        ("Comparison", "comparison", scores.comparison(results, merged)),
        ("Curves", "curves", scores.curves(results, merged, look)),
        ("Forgetting and what is kept", "growth", scores.growth(merged, look)),
        ("Score against cost", "cost", scores.against_cost(merged)),
        ("Score matrices", "matrices", scores.matrices(results, merged)),
        ("Classes: as learned and at the end", "classes", scores.per_class(results, merged)),
        ("Old and new classes", "confusion", scores.confusion(results, merged)),
        ("Scores after the last task", "final", scores.final(merged)),
        ("Examples", "examples", pictures.gallery(examples, [m.name for m in merged], max_examples)),
        ("Protocol", "protocol", _protocol(results)),
        ("How the metrics are defined", "formulas", _formulas(results)),
    ]
    sections = [section for section in sections if section[2]]
    nav = "".join(f'<a href="#{key}">{title.split(":")[0]}</a>' for title, key, _ in sections)
    body = [f"<header><h1>{escape(_versus(merged))}</h1>", f'<p class="soft">{escape(tables.headline(results))}</p>']
    said = [*sentences(results), *comparison.notes]
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


def _protocol(results: Results) -> str:
    whole = results.task_kind == "classification"
    named = {key: title for key, title in _NAMED.items() if not (whole and key in ("decoder", "proposals"))}
    facts = {
        "Benchmark": results.benchmark,
        "Kind": results.task_kind,
        "Split": results.split or "classes divided evenly",
        "Setting": results.setting,
        **{title: str(results.config[key]) for key, title in named.items() if results.config.get(key) is not None},
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
    notes = tables.grid(results, tables.all_columns(results)).notes
    why = "".join(f"<li>{escape(note)}</li>" for note in notes)
    undefined = f"<h3>Why values are undefined</h3><ul>{why}</ul>" if why else ""
    return (
        f"<p>R[<var>t</var>, <var>i</var>] is the score on task <var>i</var> after learning task <var>t</var>; "
        f"<var>T</var> = {len(results.tasks)}. Time is that of learning; peak memory is the largest resident size of "
        "the process; stored is what the method keeps after the last task.</p>"
        '<div class="scroll"><table class="text"><thead><tr><th>Metric</th><th>Formula</th><th>Source</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{undefined}"
    )
