"""Exact search against indexes: accuracy against speed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from kc.memory.search.planner import IndexKind, SearchOptions
from kc.progress import track
from kc.report.style import looks
from kc.spec import Count
from kc.studies.base import Row, column, whole_numbers
from kc.studies.figures import curve, legend, log_axes, panels, style_axes
from kc.studies.fusion import voted_class
from kc.studies.keys import memory_of
from kc.studies.options import SizedOptions, StudySpec
from kc.studies.regions import Regions, RegionStudy, with_simulated

KINDS: tuple[IndexKind, ...] = ("exact", "hnsw", "ivf-sq8", "ivf-pq")
WANTED = (0.8, 0.95, 0.99)
"""Recall that an index is tuned to."""
QUERIES = 2_000


@dataclass(frozen=True)
class AnnOptions(SizedOptions):
    """Options of ann."""

    benchmark: str = "camvid"
    proposals: str = "superpixels"
    limit_images: Count | None = 60


class Ann(RegionStudy[AnnOptions]):
    """A row a size, index and wanted recall; accuracy is that of the softmax vote of k."""

    spec = StudySpec(
        summary="Exact search against an index: accuracy against speed.",
        plots="recall and accuracy against queries a second, a panel a size",
        options=AnnOptions,
    )

    def run(self) -> Figure:
        sizes = whole_numbers("rows", self.options.rows)
        queries = self.bench.test.named
        chosen = np.random.default_rng(self.options.seed).permutation(len(queries.label))[:QUERIES]
        queries = queries.at(chosen)
        tries = [(n, kind, r) for n in sizes for kind in KINDS for r in (WANTED if kind != "exact" else (1.0,))]
        for n, kind, recall in track(tries, "searching", self.console, "settings"):
            self.row(f"{n} {kind} {recall}", partial(self.searched, queries, n, kind, recall))
        return self.draw(sizes)

    def searched(self, queries: Regions, n: int, kind: IndexKind, recall: float) -> Row:
        """One index over `n` rows: how long it takes to make, how fast it is, and what is lost."""
        k, seed = self.options.k, self.options.seed
        filled, simulated = with_simulated(self.bench.train.named, n, seed)
        with memory_of(filled.rows()) as memory:
            truth = memory.search(queries.keys, k)
            # Exact search below `exact_rows`: an index of a thousand rows is asked for on purpose here.
            memory.configure(SearchOptions(index=kind, exact_rows=16, recall=recall, seed=seed))
            start = time.perf_counter()
            memory.search(queries.keys[:1], k)
            made = time.perf_counter() - start
            start = time.perf_counter()
            found = memory.search(queries.keys, k)
            seconds = time.perf_counter() - start
            plan = memory.stats()["plan"]
        hits = np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(truth.id, found.id, strict=True)])
        answer = voted_class(found, self.bench.ids)
        return {
            "rows": n, "simulated": simulated, "index": kind, "used": plan, "wanted_recall": recall,
            "recall": float(hits), "accuracy": float((answer == queries.label).mean()), "seconds_to_make": made,
            "queries_per_second": len(queries.label) / seconds,
        }  # fmt: skip

    def draw(self, sizes: tuple[int, ...]) -> Figure:
        figure, axes = panels(2 * len(sizes), columns=len(sizes))
        look = looks(KINDS)
        for index, ax in enumerate(axes):
            n, metric = sizes[index % len(sizes)], ("recall", "accuracy")[index // len(sizes)]
            for kind in KINDS:
                rows = [r for r in self.rows if r["rows"] == n and r["index"] == kind and r["used"] == kind]
                if rows:
                    curve(ax, column(rows, "queries_per_second"), 100 * column(rows, metric), look[kind], kind)
            simulated = max(r["simulated"] for r in self.rows if r["rows"] == n)
            note = f" ({simulated:,} simulated)" if simulated else " (all real)"
            style_axes(ax, f"{n:,} rows{note}", "queries a second", f"{metric} × 100")
            log_axes(ax)
        legend(axes[-1])
        return figure
