"""Study 5: how many rows a memory needs, and what classes it lacks cost."""

from __future__ import annotations

from functools import partial

import numpy as np
from rich.console import Console
from torch import Tensor

from kc.studies.config import StudyConfig
from kc.studies.drawing import lines
from kc.studies.record import Row, Study, column, panels
from kc.studies.scenes import Bench, Regions, best_of, numbers, remembered
from kc.studies.simulate import filled_up
from kc.studies.tuning import given, shown

COVERED = (0.5, 0.75, 1.0)


def study(config: StudyConfig, console: Console) -> Study:
    """A row a size and share of classes: base and memory together; rows beyond the real ones are simulated around
    them (column `simulated`)."""
    sizes = numbers(config.rows, "rows")
    bench = Bench(config, console, config.benchmark, config.proposals)
    record = Study(config.out, "coverage", bench.settings(config) | {"k": config.k, "rows": sizes})
    said = bench.says(bench.test)
    record.row("base", lambda: {"covered": "base alone", "rows": 0, **bench.score(best_of(said, bench.ids))})
    stored = bench.train.named
    order = np.random.default_rng(config.seed).permutation(np.unique(stored.label))
    for share in COVERED:
        kept = stored.at(np.flatnonzero(np.isin(stored.label, order[: max(1, round(share * len(order)))])))
        for n in sizes:
            record.row(f"{share} {n}", partial(row, bench, kept, said, share, n, config))
    metrics = ["pq", "miou"] if bench.panoptic else ["miou"]
    figure, axes = panels(len(metrics), width=4.4)
    of_lines = [r for r in record.rows if r["covered"] != "base alone"]
    partly = [r for r in of_lines if r["simulated"]]
    for ax, metric in zip(axes, metrics, strict=True):
        lines(ax, of_lines, "rows", metric, "covered", x_name="rows in memory")
        ax.set_xscale("log")
        ax.axhline(100 * record.rows[0][metric], color="#7f7f7f", linestyle=":", linewidth=1, label="base alone")
        ax.scatter(column(partly, "rows"), 100 * column(partly, metric), s=90, facecolors="none", edgecolors="#555555",
                   linewidths=0.8, label="some rows simulated")  # fmt: skip
        ax.set_ylim(bottom=0)
    axes[-1].legend(
        title="classes in memory", title_fontsize=8, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False
    )
    record.figure(figure)
    return record


def row(bench: Bench, kept: Regions, said: Tensor, share: float, n: int, config: StudyConfig) -> Row:
    """Scores with a memory of `n` rows of the classes that are kept."""
    filled, simulated = filled_up(kept, n, config.seed)
    with remembered(filled) as memory:
        scores = shown(bench, memory, said, given(config.k))
    classes = len(np.unique(filled.label))
    return {"covered": f"{100 * share:g} %", "rows": n, "simulated": simulated, "classes": classes, **scores}
