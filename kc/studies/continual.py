"""What each way of learning forgets over a stream of tasks, and what a memory gives back."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from kc import compare
from kc.config import RunConfig
from kc.data.manifest import load_manifest
from kc.parsing import parse
from kc.registry import method_spec
from kc.report.style import looks
from kc.resolve import resolve
from kc.spec import Count
from kc.studies.base import Row, Study
from kc.studies.figures import bars, panels, style_axes
from kc.studies.options import RegionOptions, StudySpec

PANELS = {"old": "classes of earlier tasks", "new": "classes of the last task",
          "never_trained": "classes never trained", "forgetting": "forgetting"}  # fmt: skip
METRIC = {"classification": "accuracy", "semantic": "mIoU", "panoptic": "PQ"}


@dataclass(frozen=True)
class ContinualOptions(RegionOptions):
    """Options of continual.

    Args:
        tasks: Number of tasks.
        epochs: Epochs a task.
        methods: Methods, separated by commas.
    """

    tasks: Count = 10
    epochs: Count = 5
    methods: str = "zeroshot,knn,knn-clip,ret-clip,finetune,lwf,replay,hybrid,hybrid-replay,joint"


class Continual(Study[ContinualOptions]):
    """One run of all methods over one stream, then a row a method.

    old, new: mean score after the last task on the classes of earlier tasks, and of the last one. never_trained: mean
    over the tasks of the score on the next one, whose classes were never trained, at the moment before it is learned;
    null for heads, which cannot name them at all. forgetting: that of the report.
    """

    spec = StudySpec(
        summary="kNN-CLIP, RetCLIP and hybrids beside fine-tuning: new, old and never-trained classes.",
        plots="scores on old, new and never-trained classes, and forgetting, a bar a method",
        options=ContinualOptions,
    )

    def run(self) -> Figure:
        names = RunConfig(methods=self.options.methods).method_names
        if not all(name in self.record for name in names):
            for method in self.learn()["methods"]:
                self.row(method["name"], partial(row_of, method))
        for name in names:
            self.row(name, dict)  # in the order of --methods
        look, n = looks(names), len(names)
        figure, axes = panels(len(PANELS), columns=2, width=4.8, height=0.28 * n + 1.2)
        metric = METRIC[load_manifest(self.options.benchmark).task_kind]
        for ax, (column, title) in zip(axes, PANELS.items(), strict=True):
            values = [None if row[column] is None else 100 * row[column] for row in self.rows]
            missing = "cannot answer" if column == "never_trained" else "–"
            bars(ax, names, values, [look[name].color for name in names], missing=missing, fontsize=7)
            style_axes(ax, title, f"{metric} × 100", "")
        return figure

    def learn(self) -> Any:
        """The results of the run in the study's folder; a run that was stopped goes on."""
        options = self.options
        run = RunConfig(
            benchmark=options.benchmark, data_root=options.data_root, tasks=options.tasks, epochs=options.epochs,
            methods=options.methods, encoder=options.encoder, base=options.base, proposals=options.proposals,
            exemplars=max(100, len(load_manifest(options.benchmark).classes)),
            decoder="regions", limit_images=options.limit_images, seed=options.seed,
            out=self.record.folder / "run", wandb="disabled", accelerator="cpu",
        )  # fmt: skip
        # The methods whose neighbours are counted by an option.
        with_k = [n for n in run.method_names if "k" in {f.name for f in dataclasses.fields(method_spec(n).options)}]
        run = resolve(dataclasses.replace(run, options={name: {"k": options.k} for name in with_k}))
        return results_of(run, self.console)


def results_of(run: RunConfig, console: Console) -> Any:
    """The results of a resolved `run`, which has its folder to itself; one that was stopped goes on."""
    if started := sorted(run.out.glob("*/config.yaml")):
        run = parse(["--resume", str(started[-1].parent), "--wandb", "disabled", "--accelerator", "cpu"])
    folder = compare.run(run, console)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def row_of(method: dict[str, Any]) -> Row:
    """One method of `results.json` as a row."""
    matrix = [[math.nan if v is None else v for v in line] for line in method["matrix"]]
    last, n = matrix[-1], len(matrix)
    ahead = [matrix[t][t + 1] for t in range(n - 1)]
    scores = {name: method["metrics"][name] for name in ("average", "forgetting")}
    return {
        "method": method["name"], "old": _mean(last[:-1]), "new": last[-1], "never_trained": _mean(ahead),
        "all": method["seen"][-1], **scores, "seconds": sum(c["seconds"] for c in method["cost"]),
        "stored_bytes": method["cost"][-1]["stored_bytes"],
    }  # fmt: skip


def _mean(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan
