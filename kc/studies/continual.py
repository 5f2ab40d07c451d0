"""Study 8: what each way of learning forgets over a stream of tasks, and what a memory gives back."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any

from rich.console import Console

from kc import compare
from kc.config import RunConfig
from kc.data.manifest import load_manifest
from kc.report.style import looks
from kc.resolve import resolve
from kc.studies.config import StudyConfig
from kc.studies.record import Row, Study, dress, panels

COLUMNS = ("old", "new", "never_trained", "forgetting")


def study(config: StudyConfig, console: Console) -> Study:
    """One run of all methods over one stream, then a row a method.

    old, new: mean score after the last task on the classes of earlier tasks, and of the last one. never_trained: mean
    over the tasks of the score on the next one, whose classes were never trained, at the moment before it is learned;
    null for heads, which cannot name them at all. forgetting: that of the report.
    """
    settings = {
        "benchmark": config.benchmark, "encoder": config.encoder, "base": config.base, "proposals": config.proposals,
        "tasks": config.tasks, "epochs": config.epochs, "k": config.k, "methods": config.methods,
        "limit_images": config.limit_images, "seed": config.seed,
    }  # fmt: skip
    record = Study(config.out, "continual", settings)
    names = [name.strip() for name in config.methods.split(",")]
    if not all(name in record for name in names):
        results = _run(config, record, console)
        for method in results["methods"]:
            record.row(method["name"], partial(row_of, method))
    for name in names:
        record.row(name, dict)  # in the order asked for
    _draw(record, load_manifest(config.benchmark).task_kind)
    return record


def _run(config: StudyConfig, record: Study, console: Console) -> Any:
    """The results of the run in the study's folder; a run that was stopped goes on."""
    run = RunConfig(
        benchmark=config.benchmark, data_root=config.data_root, tasks=config.tasks, epochs=config.epochs,
        methods=config.methods, encoder=config.encoder, base=config.base, proposals=config.proposals,
        exemplars=max(100, len(load_manifest(config.benchmark).classes)),
        decoder="regions", fusion="fixed", k=config.k, limit_images=config.limit_images, seed=config.seed,
        out=record.folder / "run", wandb="disabled", accelerator="cpu",
    )  # fmt: skip
    run = resolve(run)
    started = sorted(run.out.glob("*/config.yaml"))
    if started:
        from kc.parsing import parse

        run = parse(["--resume", str(started[-1].parent), "--wandb", "disabled", "--accelerator", "cpu"])
    folder = compare.run(run, console)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def row_of(method: dict[str, Any]) -> Row:
    """One method of `results.json` as a row."""
    matrix = [[math.nan if v is None else v for v in line] for line in method["matrix"]]
    last, n = matrix[-1], len(matrix)
    ahead = [matrix[t][t + 1] for t in range(n - 1)]
    return {
        "method": method["name"],
        "old": _mean(last[:-1]),
        "new": last[-1],
        "never_trained": _mean(ahead),
        "all": method["seen"][-1],
        "average": method["metrics"]["average"],
        "forgetting": method["metrics"]["forgetting"],
        "seconds": sum(c["seconds"] for c in method["cost"]),
        "stored_bytes": method["cost"][-1]["stored_bytes"],
    }


def _mean(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def _draw(record: Study, kind: str) -> None:
    rows = record.rows
    names = [row["method"] for row in rows]
    look = looks(names)
    figure, axes = panels(len(COLUMNS), columns=2, width=4.8, height=0.28 * len(rows) + 1.2)
    metric = {"classification": "accuracy", "semantic": "mIoU", "panoptic": "PQ"}[kind]
    for ax, column in zip(axes, COLUMNS, strict=True):
        values = [row[column] for row in rows]
        # No width rather than NaN: a bar that is not drawn would take its line, and its name, with it.
        ax.barh(names, [100 * (value or 0) for value in values], color=[look[n].color for n in names], height=0.65)
        for at, value in enumerate(values):
            missing = "cannot answer" if column == "never_trained" else "–"
            text = missing if value is None else f"{100 * value:.1f}"
            ax.text(max(100 * (value or 0), 0), at, " " + text, va="center", fontsize=7, color="#333333")
        ax.set_ylim(len(rows) - 0.5, -0.5)
        title = {"old": "classes of earlier tasks", "new": "classes of the last task",
                 "never_trained": "classes never trained", "forgetting": "forgetting"}[column]  # fmt: skip
        dress(ax, title, f"{metric} × 100", "")
        ax.margins(x=0.15)
    record.figure(figure)
