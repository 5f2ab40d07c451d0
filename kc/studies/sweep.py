"""Study 2: lambda, T and k of kNN-CLIP from cached scores, and where the calibrated setting stands among them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rich.console import Console
from torch import Tensor

from kc.memory.vote.fusion import retrieval_logits
from kc.progress import track
from kc.studies.config import StudyConfig
from kc.studies.drawing import lines
from kc.studies.record import Row, Study, panels
from kc.studies.scenes import Bench, best_of, held, joined, remembered
from kc.studies.tuning import SWEPT_K, alone, calibrated, given, shown, sweep_grid


def study(config: StudyConfig, console: Console) -> Study:
    """A row a setting of the sweep, then the references: base alone, memory alone, as given, calibrated, and the best
    of the sweep by the benchmark's own metric, found on the very images it is scored on."""
    bench = Bench(config, console, config.benchmark, config.proposals)
    record = Study(config.out, "sweep", bench.settings(config) | {"k": config.k})
    stored = bench.train.named
    said = bench.says(bench.test)
    with remembered(stored) as memory:
        known = held(memory, bench.ids)
        opinions = {k: retrieval_logits(memory.search(bench.test.keys, k), bench.ids) for k in SWEPT_K}
        for s in track(list(sweep_grid()), "sweep", console, "settings"):
            values = {"setting": "fixed", "k": s.k, "threshold": s.threshold, "lam": s.lam}
            compute = partial(joined, said, known, s, *opinions[s.k])
            record.row(f"{s.k} {s.threshold} {s.lam}", partial(row, bench, values, compute))
        swept = [row for row in record.rows if row["setting"] == "fixed"]
        record.row("base", lambda: {"setting": "base alone", **bench.score(best_of(said, bench.ids))})
        record.row("memory", lambda: {"setting": "memory alone", "k": config.k, **alone(bench, memory, config.k)})
        record.row("given", lambda: {"setting": "as given", **shown(bench, memory, said, given(config.k))})
        record.row(
            "calibrated",
            lambda: {
                "setting": "calibrated",
                **shown(bench, memory, said, calibrated(bench, memory, stored, config.seed)),
            },
        )
        record.row("best", lambda: {**max(swept, key=lambda r: r[bench.metric]), "setting": "best of the sweep"})
    draw(record, bench)
    return record


def row(bench: Bench, values: Row, scores: Callable[[], Tensor]) -> Row:
    """A setting and what it scores."""
    return {**values, **bench.score(best_of(scores(), bench.ids))}


def draw(record: Study, bench: Bench) -> None:
    """The benchmark's metric against lambda, a line a T, a panel a k; levels of the references."""
    rows = record.rows
    reference = {row["setting"]: row for row in rows if row["setting"] not in ("fixed", "as given")}
    metrics = ["miou", "pq"] if bench.panoptic else ["miou"]
    figure, axes = panels(len(SWEPT_K) * len(metrics), columns=len(SWEPT_K), width=2.9)
    for index, ax in enumerate(axes):
        metric, k = metrics[index // len(SWEPT_K)], SWEPT_K[index % len(SWEPT_K)]
        of_panel = [
            {**row, "T": "always" if row["threshold"] > 1 else f"T = {row['threshold']}"}
            for row in rows
            if row["setting"] == "fixed" and row["k"] == k
        ]
        lines(ax, of_panel, "lam", metric, "T", x_name="lambda", title=f"k = {k}")
        for name, dash in (("base alone", ":"), ("memory alone", "--"), ("calibrated", "-")):
            ax.axhline(100 * reference[name][metric], color="#7f7f7f", linestyle=dash, linewidth=1, label=name)
        ax.set_ylim(0, 105 * max(row[metric] for row in rows))
    axes[0].legend(frameon=False, fontsize=7)
    record.figure(figure)
