"""Weights tuned on one benchmark and used on the other."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from kc.memory.disk import Memory
from kc.methods.retrieval.calibration import Setting
from kc.progress import track
from kc.report.style import looks
from kc.studies.base import Row
from kc.studies.figures import METRICS, bars, panels, style_axes
from kc.studies.fusion import Target, calibrated_setting, default_setting, fixed_settings, values_of
from kc.studies.keys import memory_of
from kc.studies.options import PairOptions, StudySpec
from kc.studies.regions import Benchmark, PairStudy


class Transfer(PairStudy[PairOptions]):
    """A row a target and origin of the weights: as given, calibrated on each memory, best of a sweep on each test
    set (which the calibrated ones never saw)."""

    spec = StudySpec(
        summary="Weights of kNN-CLIP tuned on one benchmark and used on the other.",
        plots="each benchmark's metric, a bar an origin of the weights",
        options=PairOptions,
    )

    def run(self) -> Figure:
        origins: dict[str, Setting] = {"as given": default_setting(self.options.k)}
        targets: list[Target] = []
        for bench in (self.bench, self.other):
            with memory_of(bench.train.named.rows()) as memory:
                target = Target(bench, memory, bench.base_scores(bench.test))
                targets.append(target)
                tuned = self.row(f"setting {bench.name}", partial(self.calibrated, bench, memory))
                origins[f"calibrated on {bench.name}"] = setting_of(tuned)
            found = []
            for s in track(list(fixed_settings()), f"sweep on {bench.name}", self.console, "settings"):
                key = f"sweep {bench.name} {s.k} {s.threshold} {s.lam}"
                found.append(self.row(key, partial(scored, "sweep", target, "sweep", s)))
            origins[f"best on {bench.name}"] = setting_of(max(found, key=lambda row: row[bench.metric]))
        for target in targets:
            for origin, setting in origins.items():
                self.row(f"{target.bench.name} <- {origin}", partial(scored, "result", target, origin, setting))
        figure, axes = panels(len(targets), width=5)
        rows = [row for row in self.rows if row["what"] == "result"]
        names = list(dict.fromkeys(row["origin"] for row in rows))
        look = looks(names)
        for ax, bench in zip(axes, (self.bench, self.other), strict=True):
            values = [100 * row[bench.metric] for row in rows if row["target"] == bench.name]
            bars(ax, names, values, [look[n].color for n in names], form="{:.2f}", margin=0.18)
            style_axes(ax, bench.name, METRICS[bench.metric], "")
        return figure

    def calibrated(self, bench: Benchmark, memory: Memory) -> Row:
        """The setting that is calibrated on one memory."""
        setting = calibrated_setting(bench, memory, bench.train.named, self.options.seed)
        return head("setting", bench, "calibrated", setting)


def scored(what: str, target: Target, origin: str, setting: Setting) -> Row:
    """A setting as a row, with its scores on the test images."""
    return {**head(what, target.bench, origin, setting), **target.row(setting)}


def head(what: str, bench: Benchmark, origin: str, setting: Setting) -> Row:
    """A setting as a row."""
    return {"what": what, "target": bench.name, "origin": origin, **values_of(setting)}


def setting_of(row: Row) -> Setting:
    """The setting of a row."""
    return Setting(row["k"], row["lambda"], row["threshold"], 0, 0, 0)
