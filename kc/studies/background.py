"""Background shift: every rule for rows labelled background, beside a memory of full labels and methods that train."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from matplotlib.figure import Figure

from kc.config import RunConfig
from kc.data.manifest import load_manifest
from kc.errors import KcError
from kc.registry import method_spec
from kc.report.style import looks
from kc.resolve import resolve
from kc.spec import Count, Whole
from kc.studies.base import Row, Study
from kc.studies.continual import results_of
from kc.studies.figures import bars, panels, style_axes
from kc.studies.options import StudyOptions, StudySpec
from kc.types import Setting

RULES = ("keep", "ignore", "last", "repair", "per-task")
JOINT = "joint"
SETTINGS: tuple[Setting, ...] = ("overlapped", "disjoint", "partition")


@dataclass(frozen=True)
class BackgroundOptions(StudyOptions):
    """Options of background.

    Args:
        benchmark: Name of a benchmark with a background class, or path of a manifest (YAML).
        settings: Which labels a task sees, separated by commas: overlapped, disjoint or partition.
        methods: Methods that train, beside the memories; separated by commas, may be empty.
        tasks: Number of tasks.
        epochs: Epochs a task of methods that train.
        decoder: What methods that train classify: fpn, deeplabv3 or regions.
        proposals: Regions that the memories store.
        k: Neighbours that vote.
        seed: Seed of every draw.
    """

    benchmark: str = "camvid-void"
    settings: str = "overlapped,partition"
    methods: str = "mib,plop,ssul"
    tasks: Count = 6
    epochs: Count = 5
    decoder: Literal["fpn", "deeplabv3", "regions"] = "fpn"
    proposals: str = "superpixels"
    k: Count = 16
    seed: Whole = 0


class BackgroundShift(Study[BackgroundOptions]):
    """A row a setting and answer: `knn` by each rule of `knn.background`, `joint` (a memory of full labels, learned as
    one task) and methods that train.

    miou: over all classes after the last task. gap_closed: (miou - that of keep) / (that of joint - that of keep), null
    where the two are equal. seconds: of learning all tasks, for memories the search that repair needs at first use too.
    """

    spec = StudySpec(
        summary="Later classes labelled background: every rule of knn.background beside MiB, PLOP and SSUL.",
        plots="mIoU after the last task, a panel a setting, a bar an answer",
        options=BackgroundOptions,
    )

    def run(self) -> Figure:
        options = self.options
        asked = {name.strip() for name in options.settings.split(",")}
        settings = [setting for setting in SETTINGS if setting in asked]
        if not asked <= {*SETTINGS}:
            raise KcError(f"--settings {options.settings}: expected some of {', '.join(SETTINGS)}")
        methods = RunConfig(methods=options.methods).method_names if options.methods else ()
        for name in methods:
            method_spec(name)  # before anything is encoded
        manifest = load_manifest(options.benchmark)
        if manifest.task_kind != "semantic" or manifest.background_id is None:
            raise KcError(
                f"{manifest.name} is {manifest.task_kind} and has {'no' if manifest.background_id is None else 'a'} "
                "background class: take a semantic benchmark with one, such as camvid-void or voc2012"
            )
        joint = self.row(JOINT, partial(self.learned, "knn", "overlapped", 1, "keep"))
        for setting in settings:
            kept = self.row(f"{setting} keep", partial(self.learned, "knn", setting, options.tasks, "keep"))
            bounds = (kept["miou"], joint["miou"])
            for rule in RULES[1:]:
                key = f"{setting} {rule}"
                self.row(key, partial(self.beside, bounds, "knn", setting, options.tasks, rule))
            for name in methods:
                self.row(f"{setting} {name}", partial(self.beside, bounds, name, setting, options.tasks))
        names = [JOINT, *RULES, *methods]
        look = looks(names)
        figure, axes = panels(len(settings), width=4.4, height=0.28 * len(names) + 1.2)
        of = {(row["setting"], row["background"] or row["method"]): row["miou"] for row in self.rows}
        for ax, setting in zip(axes, settings, strict=True):
            values = [100 * (joint["miou"] if name == JOINT else of[setting, name]) for name in names]
            shown = [f"knn, {name}" if name in (JOINT, *RULES) else name for name in names]
            bars(ax, shown, values, [look[name].color for name in names], fontsize=7)
            style_axes(ax, setting, "mIoU × 100", "")
        return figure

    def beside(self, bounds: tuple[float, float], *args: Any) -> Row:
        """`learned`, with the part of the gap between keep and joint (`bounds`) that is closed."""
        row, (kept, joint) = self.learned(*args), bounds
        return row | {"gap_closed": (row["miou"] - kept) / (joint - kept) if joint != kept else math.nan}

    def learned(self, method: str, setting: Setting, tasks: int, rule: str = "") -> Row:
        """One method over one stream, as a row."""
        options = self.options
        run = RunConfig(
            benchmark=options.benchmark, data_root=options.data_root, link_roots=options.link_roots, tasks=tasks,
            setting=setting, methods=method, encoder=options.encoder, proposals=options.proposals,
            epochs=options.epochs, decoder=options.decoder, limit_images=options.limit_images, seed=options.seed,
            out=self.record.folder / f"{setting}-{tasks}-{rule or method}", wandb="disabled", accelerator="cpu",
            options={method: {"k": options.k, "background": rule}} if rule else {},
        )  # fmt: skip
        found = results_of(resolve(run), self.console)["methods"][0]
        return {
            "setting": setting if tasks > 1 else "full labels", "method": method, "background": rule, "tasks": tasks,
            "miou": found["seen"][-1], "seconds": sum(cost["seconds"] for cost in found["cost"]),
            "stored_bytes": found["cost"][-1]["stored_bytes"],
        }  # fmt: skip
