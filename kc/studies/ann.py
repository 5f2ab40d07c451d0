"""Study 3: exact search against indexes: accuracy against speed."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from rich.console import Console

from kc.memory.search.planner import IndexKind, SearchOptions
from kc.progress import track
from kc.report.style import looks
from kc.studies.config import StudyConfig
from kc.studies.drawing import plain_log
from kc.studies.record import Row, Study, column, dress, panels
from kc.studies.scenes import Bench, Regions, numbers, remembered, voted
from kc.studies.simulate import filled_up

KINDS: tuple[IndexKind, ...] = ("exact", "hnsw", "ivf-sq8", "ivf-pq")
WANTED = (0.8, 0.95, 0.99)
"""Recall that an index is tuned to."""
QUERIES = 2_000


def study(config: StudyConfig, console: Console) -> Study:
    """A row a size, index and wanted recall, on the regions of --other; accuracy is that of the 16-NN vote."""
    sizes = numbers(config.rows, "rows")
    bench = Bench(config, console, config.other, config.other_proposals, config.other_images)
    settings = bench.settings(config) | {"k": config.k, "rows": sizes}
    record = Study(config.out, "ann", settings)
    asked = bench.test.named
    asked = asked.at(np.random.default_rng(config.seed).permutation(len(asked.label))[:QUERIES])
    tries = [(n, kind, r) for n in sizes for kind in KINDS for r in (WANTED if kind != "exact" else (1.0,))]
    for n, kind, recall in track(tries, "searching", console, "settings"):
        compute = partial(row, bench, bench.train.named, asked, n, kind, recall, config)
        record.row(f"{n} {kind} {recall}", compute)
    draw(record, sizes)
    return record


def row(
    bench: Bench, stored: Regions, asked: Regions, n: int, kind: IndexKind, recall: float, config: StudyConfig
) -> Row:
    """One index over `n` rows: how long it takes to make, how fast it is, and what is lost."""
    filled, simulated = filled_up(stored, n, config.seed)
    with remembered(filled) as memory:
        truth = memory.search(asked.keys, config.k)
        # Exact search below `exact_rows`: an index of a thousand rows is asked for on purpose here.
        memory.configure(SearchOptions(index=kind, exact_rows=16, recall=recall, seed=config.seed))
        start = time.perf_counter()
        memory.search(asked.keys[:1], config.k)
        made = time.perf_counter() - start
        start = time.perf_counter()
        found = memory.search(asked.keys, config.k)
        seconds = time.perf_counter() - start
        plan = memory.stats()["plan"]
    hits = np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(truth.id, found.id, strict=True)])
    answer = voted(found, bench.ids)
    return {
        "rows": n,
        "simulated": simulated,
        "index": kind,
        "used": plan,
        "wanted_recall": recall,
        "recall": float(hits),
        "accuracy": float((answer == asked.label).mean()),
        "seconds_to_make": made,
        "queries_per_second": len(asked.label) / seconds,
    }


def draw(record: Study, sizes: list[int]) -> None:
    """Recall and accuracy against queries a second, a panel a size."""
    figure, axes = panels(2 * len(sizes), columns=len(sizes))
    look = looks(KINDS)
    for index, ax in enumerate(axes):
        n, metric = sizes[index % len(sizes)], ("recall", "accuracy")[index // len(sizes)]
        for kind in KINDS:
            rows = [r for r in record.rows if r["rows"] == n and r["index"] == kind and r["used"] == kind]
            if rows:
                x, y = column(rows, "queries_per_second"), 100 * column(rows, metric)
                ax.plot(x, y, color=look[kind].color, marker=look[kind].marker, linewidth=1.2, label=kind)
        simulated = max(r["simulated"] for r in record.rows if r["rows"] == n)
        note = f" ({simulated:,} simulated)" if simulated else " (all real)"
        dress(ax, f"{n:,} rows{note}", "queries a second", f"{metric} × 100")
        plain_log(ax)
    axes[-1].legend(frameon=False, fontsize=8)
    record.figure(figure)
