"""What a run logs to W&B, as payloads for the run object the caller has (`WandbLogger.experiment`).

Tasks count from 1 and are the x-axis. Several methods in one W&B run are told apart by `prefix` ("knn/").
wandb is imported inside the functions that need its media types, so building scalars costs nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from kc.label_png import to_pixels
from kc.report.examples import Answer, Example
from kc.report.records import COST_NAMES, METRIC_NAMES, Cost, MethodResult
from kc.types import VOID

if TYPE_CHECKING:
    import wandb

_SECTIONS = ("score", "forgetting", "cost", "final", "confusion")
MEMORY_BYTES = 256 * 2**20
"""Largest memory whose files become a W&B artifact."""
_MASK_VALUES = 256  # W&B stores a mask as 8 bits


class DefinesMetrics(Protocol):
    """The part of a W&B run that `define_metrics` needs."""

    def define_metric(self, name: str, step_metric: str | None = None, summary: str | None = None) -> Any:
        """Declare how a logged key is drawn."""


def define_metrics(run: DefinesMetrics, prefixes: Sequence[str] = ("",)) -> None:
    """Make the task the x-axis of everything this module logs, for each prefix in use; call once before logging."""
    run.define_metric("task")
    for prefix in prefixes:
        for section in _SECTIONS:
            run.define_metric(f"{prefix}{section}/*", step_metric="task")


def task_payload(
    task: int,
    row: Sequence[float | None],
    seen: float | None,
    cost: Cost,
    *,
    forgetting: Sequence[float | None] = (),
    prefix: str = "",
) -> dict[str, float]:
    """Scalars to log once after learning `task` (from 0).

    `row` (T,) the scores on each task, of which those up to `task` are logged; `seen` the score on all seen classes;
    `forgetting` one value a task before this one, logged singly and as their mean. Undefined values are left out:
    W&B draws a gap, not a zero.
    """
    values: dict[str, float | None] = {"score/seen": seen}
    values |= {f"score/task_{i + 1:02d}": score for i, score in enumerate(row[: task + 1])}
    values |= {f"forgetting/task_{i + 1:02d}": lost for i, lost in enumerate(forgetting[:task])}
    known = [lost for lost in forgetting[:task] if _defined(lost) is not None]
    if known and len(known) == task:
        values["forgetting/mean"] = sum(lost for lost in known if lost is not None) / task
    values |= {f"cost/{name}": float(getattr(cost, name)) for name in COST_NAMES}
    payload: dict[str, float] = {"task": task + 1}
    for key, value in values.items():
        if (number := _defined(value)) is not None:
            payload[prefix + key] = number
    return payload


def _defined(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def final_payload(result: MethodResult, *, prefix: str = "") -> dict[str, float]:
    """The continual metrics and final scores of one method, to log with the last task; undefined ones left out."""
    values = {name: getattr(result.metrics, name) for name in METRIC_NAMES} | result.final
    known = {f"{prefix}final/{k}": float(v) for k, v in values.items() if v is not None}
    known |= {f"{prefix}confusion/{k}": float(v) for k, v in result.confusion.items() if v is not None}
    return {"task": len(result.matrix), **known}


def artifacts(result: MethodResult, folder: Path) -> list[wandb.Artifact]:
    """The record of one method and seed, and its memory where `folder` keeps one.

    A memory above MEMORY_BYTES is named with its size and not copied: rows that are erased later stay in every copy.
    """
    import wandb

    name = f"{re.sub(r'[^A-Za-z0-9_.-]', '-', result.name)}-s{result.seed}"
    record = wandb.Artifact(f"results-{name}", type="results", metadata={"seed": result.seed, "method": result.name})
    with record.new_file("result.json", encoding="utf-8") as file:
        file.write(result.model_dump_json(indent=1))
    place = folder / "memory"
    if not place.is_dir():
        return [record]
    size = sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
    memory = wandb.Artifact(f"memory-{name}", type="memory", metadata={"bytes": size, "path": "methods/*/memory"})
    if size <= MEMORY_BYTES:
        memory.add_dir(str(place))
    return [record, memory]


def matrix_table(result: MethodResult) -> wandb.Table:
    """The score matrix as a table: one row a learned task, one column a scored task, empty where undefined."""
    import wandb

    n = len(result.matrix)
    rows = [[t + 1, *row] for t, row in enumerate(result.matrix)]
    return wandb.Table(columns=["after task", *(f"task {i + 1}" for i in range(n))], data=rows)


def example_images(examples: Sequence[Example], method: str) -> list[wandb.Image]:
    """The examples that `method` answered: maps as mask overlays with class names, labels in the caption.

    Pictures of several sizes are padded to one, because W&B shows all of a list at the size of the first.
    """
    import wandb

    chosen = [example for example in examples if method in example.predictions]
    if not chosen:
        return []
    height, width = np.array([example.image.shape[:2] for example in chosen]).max(axis=0).tolist()
    names = {info.id: info.name for example in chosen for info in example.infos} | {VOID: "not labelled"}
    maps = [
        {who: _pad(_classes(answer), height, width, VOID) for who, answer in answers.items()}
        for answers in ({"truth": e.truth, method: e.predictions[method]} for e in chosen)
        if not any(isinstance(answer, int) for answer in answers.values())
    ]
    if not maps:
        return [
            wandb.Image(_pad(e.image, height, width, 0), caption=f"{e.name}; {_said(e, method, names)}") for e in chosen
        ]
    masks, labels = eight_bits(maps, names)
    return [
        wandb.Image(
            _pad(e.image, height, width, 0),
            caption=e.name,
            masks={who: {"mask_data": mask, "class_labels": labels} for who, mask in layers.items()},
        )
        for e, layers in zip(chosen, masks, strict=True)
    ]


def _said(example: Example, method: str, names: dict[int, str]) -> str:
    answers = {"truth": example.truth, method: example.predictions[method]}
    return ", ".join(f"{who}: {names.get(what, what)}" for who, what in answers.items() if isinstance(what, int))


def _classes(answer: Answer) -> npt.NDArray[Any]:
    layers = np.asarray(answer)
    return layers[..., 0] if layers.ndim == 3 else layers


def _pad(array: npt.NDArray[Any], height: int, width: int, value: int) -> npt.NDArray[Any]:
    """`array` (h, w, ...) in the upper left corner of (height, width, ...)."""
    edges = [(0, height - array.shape[0]), (0, width - array.shape[1])]
    return np.pad(array, edges + [(0, 0)] * (array.ndim - 2), constant_values=value)


def eight_bits(
    maps: Sequence[dict[str, npt.NDArray[Any]]], names: dict[int, str]
) -> tuple[list[dict[str, npt.NDArray[np.uint8]]], dict[int, str]]:
    """Maps of class ids as masks that W&B can store, and the names of their values, one set for all of them.

    Ids up to 254 stay as they are, with 255 for VOID. Where there are higher ones, the 255 classes (or VOID) with most
    pixels are numbered anew from 0 and the rest become 255, "other classes".
    """
    used, pixels = np.unique(
        np.concatenate([m.ravel() for layers in maps for m in layers.values()]), return_counts=True
    )
    if used[-1] < _MASK_VALUES - 1:
        labels = {int(p): names.get(int(c), f"class {c}") for p, c in zip(to_pixels(used), used, strict=True)}
        return [{who: to_pixels(m, 0).astype(np.uint8) for who, m in layers.items()} for layers in maps], labels
    kept = np.sort(used[np.argsort(-pixels, kind="stable")[: _MASK_VALUES - 1]])
    table = np.full(int(used[-1]) + 2, _MASK_VALUES - 1, dtype=np.uint8)  # the last entry is that of VOID (-1)
    table[kept] = np.arange(len(kept))
    labels = {i: names.get(int(c), f"class {c}") for i, c in enumerate(kept)}
    if len(kept) < len(used):
        labels[_MASK_VALUES - 1] = "other classes"
    return [{who: table[m] for who, m in layers.items()} for layers in maps], labels
