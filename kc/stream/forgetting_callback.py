"""When a task has been learned: score every seen task, work out what was forgotten, and pass it on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import lightning as L
import torch

from kc.methods.base import ContinualMethod
from kc.metrics.continual import forgetting_per_task
from kc.stream.evaluate import Scores, evaluate
from kc.stream.resume import MethodState, none_if_nan
from kc.types import ClassInfo, Task, TaskKind

Loader = Any


class Stream(Protocol):
    """What the stream needs of a data module (kc.data.datamodule.IncrementalDataModule has it)."""

    tasks: tuple[Task, ...]
    classes: Mapping[int, ClassInfo]

    def loader(self, split: Any, task: int, scope: Any, *, shuffle: bool = False, raw: bool = False) -> Loader:
        """Batches of a split."""
        ...


class Evaluator:
    """Scores a method on the test split of a stream as `kc.types.Task` says: all seen classes compete."""

    def __init__(self, stream: Stream, kind: TaskKind) -> None:
        self.stream = stream
        self.kind = kind
        self.things = tuple(c.id for c in stream.classes.values() if c.is_thing)

    def seen(self, method: ContinualMethod, task: int, device: torch.device | None) -> Scores:
        """Scores after task `task` over every class seen so far; labels of later classes are ignored."""
        return self._run(method, task, "seen", device)

    def ahead(self, method: ContinualMethod, task: int, device: torch.device | None) -> float:
        """Score on task `task` alone, before it is learned, with its names added to the vocabulary."""
        return self._run(method, task, "task", device).of_task(self.stream.tasks[task])

    def _run(self, method: ContinualMethod, task: int, scope: str, device: torch.device | None) -> Scores:
        loader = self.stream.loader("test", task, scope, raw=method.needs_raw)
        module = cast(Any, method)
        was_training = module.training
        module.eval()
        try:
            return evaluate(method, loader, self.stream.tasks[task].seen_ids, self.kind, self.things, device)
        finally:
            module.train(was_training)


class ForgettingCallback(L.Callback):
    """At the end of a task: one row of R, the score on all seen classes, and the forgetting of each earlier task."""

    def __init__(
        self, evaluator: Evaluator, state: MethodState, task: int, log: Callable[[Mapping[str, float]], None]
    ) -> None:
        self.evaluator, self.state, self.task, self.log = evaluator, state, task, log

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate and add to the state; it is the loop that saves it, when the task counts as done."""
        method = cast(ContinualMethod, pl_module)
        tasks = self.evaluator.stream.tasks
        device = pl_module.device
        scores = self.evaluator.seen(method, self.task, device)
        row = [scores.of_task(t) if t.index <= self.task else math.nan for t in tasks]
        if method.open_vocabulary and self.task + 1 < len(tasks):
            row[self.task + 1] = self.evaluator.ahead(method, self.task + 1, device)
        record(self.state, row, scores, self.evaluator.stream.classes)
        self.log(summary(self.state, [t.class_names for t in tasks]))


def record(state: MethodState, row: Sequence[float], scores: Scores, classes: Mapping[int, ClassInfo]) -> None:
    """Append one task's scores to a state."""
    state.rows.append([none_if_nan(v) for v in row])
    state.seen.append(none_if_nan(scores.seen))
    state.per_class.append({classes[c].name: none_if_nan(v) for c, v in scores.per_class.items()})
    state.final = {k: none_if_nan(v) for k, v in scores.final.items()}


def summary(state: MethodState, names: Sequence[Sequence[str]]) -> dict[str, float]:
    """What is logged after the latest task: defined scores by name, forgetting of each earlier task and its mean."""
    t = len(state.rows) - 1
    n = len(names)
    matrix = [[math.nan if v is None else v for v in row] for row in state.rows]
    matrix += [[math.nan] * n for _ in range(n - len(matrix))]
    values: dict[str, float] = {"task": float(t + 1)}
    values |= {f"score/task-{i + 1:02d}": v for i, v in enumerate(matrix[t]) if not math.isnan(v)}
    lost = [float(v) for v in forgetting_per_task(matrix, t)]
    values |= {f"forgetting/task-{i + 1:02d}": v for i, v in enumerate(lost) if not math.isnan(v)}
    known = [v for v in lost if not math.isnan(v)]
    if known:
        values["forgetting/mean"] = sum(known) / len(known)
    if state.seen[t] is not None:
        values["score/seen"] = float(state.seen[t] or 0.0)
    return values
