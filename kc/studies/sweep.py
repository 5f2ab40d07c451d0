"""lambda, T and k of kNN-CLIP from cached scores, and the calibrated setting among them."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from kc.methods.retrieval.calibration import Setting
from kc.progress import track
from kc.studies import fusion
from kc.studies.base import Row
from kc.studies.figures import curves, legend, level, panels
from kc.studies.fusion import SWEPT_K, score_fused
from kc.studies.keys import memory_of
from kc.studies.options import RegionOptions, StudySpec
from kc.studies.regions import RegionStudy


class Sweep(RegionStudy[RegionOptions]):
    """A row a setting of the sweep, then the references: base alone, memory alone, as given, calibrated, and the best
    of the sweep by the benchmark's own metric, found on the very images it is scored on."""

    spec = StudySpec(
        summary="lambda, T and k of kNN-CLIP from cached scores, with the calibrated setting.",
        plots="scores against lambda, a line a T, a panel a k",
        paper="arXiv 2404.09447",
        options=RegionOptions,
    )

    def run(self) -> Figure:
        bench, base, k = self.bench, self.base_scores, self.options.k
        stored = bench.train.named
        with memory_of(stored.rows()) as memory:
            target = fusion.Target(bench, memory, base)

            def fixed(s: Setting) -> Row:
                return {"setting": "fixed", **target.row(s)}

            def calibrated() -> Row:
                setting = fusion.calibrated_setting(bench, memory, stored, self.options.seed)
                return {"setting": "calibrated", **score_fused(bench, memory, base, setting)}

            for s in track(list(fusion.fixed_settings()), "sweep", self.console, "settings"):
                self.row(f"{s.k} {s.threshold} {s.lam}", partial(fixed, s))
            swept = [row for row in self.rows if row["setting"] == "fixed"]
            given = fusion.default_setting(k)
            self.row("base", lambda: {"setting": "base alone", **fusion.score_base(bench, base)})
            self.row("memory", lambda: {"setting": "memory alone", "k": k, **fusion.score_memory(bench, memory, k)})
            self.row("given", lambda: {"setting": "as given", **score_fused(bench, memory, base, given)})
            self.row("calibrated", calibrated)
            self.row("best", lambda: {**max(swept, key=lambda r: r[bench.metric]), "setting": "best of the sweep"})
        return self.draw()

    def draw(self) -> Figure:
        reference = {row["setting"]: row for row in self.rows if row["setting"] not in ("fixed", "as given")}
        metrics = ["miou", "pq"] if self.bench.panoptic else ["miou"]
        figure, axes = panels(len(SWEPT_K) * len(metrics), columns=len(SWEPT_K), width=2.9)
        for index, ax in enumerate(axes):
            metric, k = metrics[index // len(SWEPT_K)], SWEPT_K[index % len(SWEPT_K)]
            of_panel = [
                {**row, "T": "always" if row["threshold"] > 1 else f"T = {row['threshold']}"}
                for row in self.rows
                if row["setting"] == "fixed" and row["k"] == k
            ]
            curves(ax, of_panel, "lambda", metric, "T", x_name="lambda", title=f"k = {k}")
            for name, dash in (("base alone", ":"), ("memory alone", "--"), ("calibrated", "-")):
                level(ax, 100 * reference[name][metric], name, dash)
            ax.set_ylim(0, 105 * max(row[metric] for row in self.rows))
        legend(axes[0], fontsize=7)
        return figure
