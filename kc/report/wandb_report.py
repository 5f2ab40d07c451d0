"""A W&B Report of finished runs (extra `wandb-report`): run sets, curves of forgetting, scores, cost and text."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from kc.errors import KcError, MissingExtraError
from kc.report import tables
from kc.report.combine import Run
from kc.report.records import Results
from kc.report.sentences import sentences

CURVES = (
    ("Score on all seen classes", "score/seen", "score"),
    ("Forgetting, mean of the tasks before", "forgetting/mean", "forgetting"),
    ("Stored bytes", "cost/stored_bytes", "bytes"),
    ("Seconds of learning", "cost/seconds", "seconds"),
)
"""Title, logged key and unit of each panel over the tasks."""
BARS = (("Average", "final/average"), ("Forgetting at the end", "final/forgetting"))
_WIDE, _HIGH = 12, 8


def build(runs: Sequence[Run], results: Results, entity: str, project: str) -> Any:
    """The report, not sent: a `wandb_workspaces.reports.v2.Report`. Raises MissingExtraError.

    Each run folder is a run set: its W&B runs carry the folder's name as their group.
    """
    try:
        expr: Any = importlib.import_module("wandb_workspaces.expr")
        wr: Any = importlib.import_module("wandb_workspaces.reports.v2")
    except ImportError as error:
        raise MissingExtraError(f"a W&B report needs {error.name}: pip install 'kc-continual[wandb-report]'") from error
    sets = [
        wr.Runset(
            entity=entity,
            project=project,
            name=run.name,
            filters=[expr.Metric("Group") == run.folder.resolve().name],
            groupby=["config.method"],
        )
        for run in runs
    ]
    panels: list[Any] = [
        wr.LinePlot(
            title=title,
            x="task",
            y=[key],
            title_x="tasks learned",
            title_y=unit,
            groupby="config.method",
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            layout=wr.Layout(x=_WIDE * (i % 2), y=_HIGH * (i // 2), w=_WIDE, h=_HIGH),
        )
        for i, (title, key, unit) in enumerate(CURVES)
    ]
    below = _HIGH * (-(-len(CURVES) // 2))
    panels += [
        wr.BarPlot(
            title=title,
            metrics=[key],
            groupby="config.method",
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            layout=wr.Layout(x=_WIDE * i, y=below, w=_WIDE, h=_HIGH),
        )
        for i, (title, key) in enumerate(BARS)
    ]
    said = [*sentences(results)]
    return wr.Report(
        entity=entity,
        project=project,
        title=f"{results.benchmark}: fine-tune or remember?",
        description=tables.headline(results),
        width="fluid",
        blocks=[
            wr.H1("What was found"),
            wr.UnorderedList(items=said),
            wr.H1("Task by task"),
            wr.PanelGrid(runsets=sets, panels=panels),
            wr.H1("The numbers"),
            wr.MarkdownBlock(text=tables.markdown(results)),
        ],
    )


def send(report: Any) -> str:
    """Save the report at W&B and return its address. Raises KcError where it cannot be reached or does not let us in.

    Nothing is changed but that report.
    """
    try:
        report.save()
        return str(report.url)
    except Exception as error:  # the client raises its own, requests' and plain ones
        raise KcError(f"the W&B report cannot be sent ({error}): log in with `wandb login` and try again") from error
