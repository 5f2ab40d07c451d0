"""When a task has been learned: score every seen task, work out what was forgotten, and pass it on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import lightning as L
import numpy as np
import torch

from kc.methods.distributed import process_rank
from kc.methods.module import ContinualMethod
from kc.metrics.confusion import class_groups, old_and_new
from kc.stream.evaluate import Observe, Scores, evaluate, over_domains, over_tasks
from kc.stream.progress import CostMeter
from kc.stream.resume import MethodState, none_if_nan
from kc.types import ClassInfo, EvaluatedOn, Prediction, SplitName, Task, TaskKind

Loader = Any


class Stream(Protocol):
    """What the stream needs of a data module (kc.data.datamodule.IncrementalDataModule has it)."""

    tasks: tuple[Task, ...]
    classes: Mapping[int, ClassInfo]

    @property
    def evaluated_on(self) -> EvaluatedOn:
        """Over which classes answers are scored."""

    def loader(self, split: Any, task: int, scope: Any, *, shuffle: bool = False, raw: bool = False) -> Loader:
        """Batches of a split."""


class Predictions(Protocol):
    """Where answers go after the last task (kc.data.predictions.PredictionWriter)."""

    def start(self) -> None:
        """Begin anew."""

    def add(self, part: int | None, batch: Mapping[str, Any], prediction: Prediction) -> None:
        """Take the answer to one batch of a part: of a task, or None where there is one pass over all images."""

    def finish(self) -> None:
        """Everything was answered."""


class Evaluator:
    """Scores a method on one split of a stream. All seen classes compete, unless the stream is evaluated otherwise:
    the classes of each task among themselves, or all classes in each domain. `predictions` receives every answer after
    the last task."""

    def __init__(
        self, stream: Stream, kind: TaskKind, split: SplitName = "test", predictions: Predictions | None = None
    ) -> None:
        self.predictions, self.stream, self.split, self.kind = predictions, stream, split, kind
        self.things = tuple(c.id for c in stream.classes.values() if c.is_thing)

    def seen(self, method: ContinualMethod, task: int, device: torch.device | None) -> Scores:
        """Scores after task `task` over every class seen so far; labels of later classes are ignored."""
        return self.after(method, task, device)[0]

    def after(self, method: ContinualMethod, task: int, device: torch.device | None) -> tuple[Scores, list[float]]:
        """What `seen` says, and the score on each task 0..`task`."""

        def observer(part: int | None) -> Observe | None:
            return None if keep is None else partial(keep.add, part)

        tasks, keep = self.stream.tasks[: task + 1], self.predictions if task == len(self.stream.tasks) - 1 else None
        if keep is not None:
            keep.start()
        if self.stream.evaluated_on == "seen":
            parts = [self._run(method, task, "seen", device, observe=observer(None))] * len(tasks)
            scores = parts[0]
        else:
            parts = [
                self._run(method, i, "task", device, None, self._vocabularies(i), observer(i))
                for i in (t.index for t in tasks)
            ]
            scores = over_domains(parts) if self.stream.evaluated_on == "domain" else over_tasks(parts, tasks)
        if keep is not None:
            keep.finish()
        return scores, [part.of_task(t) for part, t in zip(parts, tasks, strict=True)]

    def ahead(self, method: ContinualMethod, task: int, device: torch.device | None) -> float:
        """Score on task `task` alone, before it is learned, with its names added to the vocabulary."""
        scores = self._run(method, task, "task", device, vocabulary=self._vocabularies(task))
        return scores.of_task(self.stream.tasks[task])

    def _vocabularies(self, task: int) -> tuple[int, ...]:
        """The classes that an answer to an image of a task may name."""
        if self.stream.evaluated_on != "task":
            return self.stream.tasks[task].seen_ids
        background = tuple(c.id for c in self.stream.classes.values() if c.background)
        return (*background, *(c for c in self.stream.tasks[task].class_ids if c not in background))

    def validation(self, method: ContinualMethod, task: int, device: torch.device | None) -> float:
        """Score of what the method trains on now (the task, or all that was seen), on the validation split."""
        vocabulary = self._vocabularies(task) if method.train_scope == "task" else None
        scores = self._run(method, task, method.train_scope, device, "val", vocabulary)
        return scores.seen if method.train_scope == "seen" else scores.of_task(self.stream.tasks[task])

    def _run(
        self, method: ContinualMethod, task: int, scope: str, device: torch.device | None, split: str | None = None,
        vocabulary: Sequence[int] | None = None, observe: Observe | None = None,
    ) -> Scores:  # fmt: skip
        loader = self.stream.loader(split or self.split, task, scope, raw=method.needs_raw)
        vocabulary = self.stream.tasks[task].seen_ids if vocabulary is None else vocabulary
        groups = class_groups(self.stream.tasks, task) if self.stream.evaluated_on == "seen" else None
        module = cast(Any, method)
        was_training = module.training
        module.eval()
        try:
            return evaluate(method, loader, vocabulary, self.kind, self.things, device, groups, observe)
        finally:
            module.train(was_training)


class ForgettingCallback(L.Callback):
    """At the end of a task: one row of R, the score on all seen classes, and what they cost, passed on to be logged.

    Args:
        publish: called with the state and the task once the row is known.
    """

    def __init__(
        self, evaluator: Evaluator, state: MethodState, task: int, cost: CostMeter,
        publish: Callable[[MethodState, int], None],
    ) -> None:  # fmt: skip
        self.evaluator, self.state, self.task, self.cost, self.publish = evaluator, state, task, cost, publish

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate and add to the state; it is the loop that saves it, when the task counts as done."""
        if process_rank() > 0:
            return
        method = cast(ContinualMethod, pl_module)
        tasks, t = self.evaluator.stream.tasks, self.task
        scores, row = self.evaluator.after(method, t, pl_module.device)
        row += [math.nan] * (len(tasks) - len(row))
        if method.open_vocabulary and t + 1 < len(tasks):
            row[t + 1] = self.evaluator.ahead(method, t + 1, pl_module.device)
        classes = self.evaluator.stream.classes
        self.state.rows.append([none_if_nan(v) for v in row])
        self.state.seen.append(none_if_nan(scores.seen))
        self.state.per_class.append({classes[c].name: none_if_nan(v) for c, v in scores.per_class.items()})
        self.state.final = {k: none_if_nan(v) for k, v in scores.final.items()}
        self.state.confusion = self._confusion(scores)
        cost = {"seconds": self.cost.seconds, "peak_rss_bytes": self.cost.peak_rss_bytes}
        made = {"trained_parameters": method.trained_parameters(), "stored_bytes": method.stored_bytes()}
        self.state.cost.append(cost | made)
        self.publish(self.state, t)

    def _confusion(self, scores: Scores) -> dict[str, float | None]:
        """What becomes of the classes of earlier tasks and of this one; empty where there is no earlier one."""
        task = self.evaluator.stream.tasks[self.task]
        if scores.confusion is None or not task.old_ids:
            return {}
        new = [i for i, c in enumerate(task.seen_ids) if c in set(task.class_ids)]
        known = self.evaluator.stream.classes  # the background is most pixels of old classes, and is not forgotten
        counted = [not known[c].background for c in task.seen_ids]
        counts = scores.confusion * np.array(counted, np.int64)[:, None]
        return {k: none_if_nan(v) for k, v in old_and_new(counts, new).items()}
