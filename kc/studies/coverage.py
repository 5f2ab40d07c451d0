"""How many rows a memory needs, and what classes it lacks cost."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from kc.studies.base import Row, column, whole_numbers
from kc.studies.figures import curves, legend, level, panels
from kc.studies.fusion import default_setting, score_base, score_fused
from kc.studies.keys import memory_of
from kc.studies.options import SizedOptions, StudySpec
from kc.studies.regions import Regions, RegionStudy, with_simulated

COVERED = (0.5, 0.75, 1.0)


class Coverage(RegionStudy[SizedOptions]):
    """A row a size and share of classes: base and memory together; rows beyond the real ones are simulated around
    them (column `simulated`)."""

    spec = StudySpec(
        summary="Memories of 1,000 to 100,000 rows that hold 50, 75 and 100 % of the classes.",
        plots="scores against rows in memory, a line a share of the classes",
        options=SizedOptions,
    )

    def run(self) -> Figure:
        sizes, bench = whole_numbers("rows", self.options.rows), self.bench
        self.row("base", lambda: {"covered": "base alone", "rows": 0, **score_base(bench, self.base_scores)})
        stored = bench.train.named
        order = np.random.default_rng(self.options.seed).permutation(np.unique(stored.label))
        for share in COVERED:
            kept = stored.at(np.flatnonzero(np.isin(stored.label, order[: max(1, round(share * len(order)))])))
            for n in sizes:
                self.row(f"{share} {n}", partial(self.scored, kept, share, n))
        metrics = ["pq", "miou"] if bench.panoptic else ["miou"]
        figure, axes = panels(len(metrics), width=4.4)
        rows = [r for r in self.rows if r["covered"] != "base alone"]
        partly = [r for r in rows if r["simulated"]]
        for ax, metric in zip(axes, metrics, strict=True):
            curves(ax, rows, "rows", metric, "covered", x_name="rows in memory")
            ax.set_xscale("log")
            level(ax, 100 * self.rows[0][metric], "base alone")
            ax.scatter(column(partly, "rows"), 100 * column(partly, metric), s=90, facecolors="none",
                       edgecolors="#555555", linewidths=0.8, label="some rows simulated")  # fmt: skip
            ax.set_ylim(bottom=0)
        legend(axes[-1], title="classes in memory", title_fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        return figure

    def scored(self, kept: Regions, share: float, n: int) -> Row:
        """Scores with a memory of `n` rows of the classes that are kept."""
        filled, simulated = with_simulated(kept, n, self.options.seed)
        with memory_of(filled.rows()) as memory:
            scores = score_fused(self.bench, memory, self.base_scores, default_setting(self.options.k))
        classes = len(np.unique(filled.label))
        return {"covered": f"{100 * share:g} %", "rows": n, "simulated": simulated, "classes": classes, **scores}
