"""Score one method on test images: one pass gives the score of every task and of all seen classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from kc.methods.module import ContinualMethod
from kc.metrics.confusion import ConfusionMatrix, grouped_iou
from kc.metrics.instances import InstancePrecision
from kc.metrics.panoptic import PanopticQuality
from kc.types import Int64Array, Prediction, Task, TaskKind

Observe = Callable[[Mapping[str, Any], Prediction], None]
"""Receives each batch and the method's answer to it."""

METRIC = {"classification": "accuracy", "semantic": "miou", "panoptic": "pq"}
"""The score in the matrix R for each kind of benchmark."""


@dataclass(frozen=True)
class Scores:
    """What one evaluation says, all in [0, 1], NaN where undefined.

    `per_class`: class id -> score. `seen`: score on all classes of the vocabulary. `final`: named scores.
    """

    per_class: dict[int, float]
    seen: float
    final: dict[str, float] = field(default_factory=dict)
    images: dict[int, int] = field(default_factory=dict)
    """Classification: test images of each class."""
    confusion: Int64Array | None = None
    """(C, C + 1) over the vocabulary: truth in rows, answers in columns, the last one for no class."""

    def of_task(self, task: Task) -> float:
        """Score on one task: accuracy over its test images, or the mean over its classes in the ground truth."""
        if not self.images:
            return mean_defined([self.per_class.get(c, math.nan) for c in task.class_ids])
        held = [c for c in task.class_ids if self.images.get(c)]
        n = sum(self.images[c] for c in held)
        return sum(self.per_class[c] * self.images[c] for c in held) / n if n else math.nan


def mean_defined(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN when there is none."""
    kept = [v for v in values if not math.isnan(v)]
    return float(np.mean(kept)) if kept else math.nan


def over_domains(parts: Sequence[Scores]) -> Scores:
    """The mean over domains of every score, domains in which it is not defined left out."""
    named = {k for part in parts for k in part.final}
    return Scores(
        {c: mean_defined([p.per_class.get(c, math.nan) for p in parts]) for c in parts[0].per_class},
        mean_defined([p.seen for p in parts]),
        {k: mean_defined([p.final.get(k, math.nan) for p in parts]) for k in sorted(named)},
    )


def over_tasks(parts: Sequence[Scores], tasks: Sequence[Task]) -> Scores:
    """Scores of several tasks, each asked for its own classes alone.

    A class has the score of its task. `seen`: accuracy over all images, or the mean over all classes. The other named
    scores are means over tasks.
    """
    per_class = {c: p.per_class.get(c, math.nan) for p, t in zip(parts, tasks, strict=True) for c in t.class_ids}
    images = {c: n for p in parts for c, n in p.images.items()}
    held = [c for c in per_class if images.get(c)]
    final = over_domains(parts).final
    if images:
        n = sum(images[c] for c in held)
        seen = sum(per_class[c] * images[c] for c in held) / n if n else math.nan
        final |= {"accuracy": seen, "mean_class_accuracy": mean_defined(per_class.values())}
    else:
        seen = mean_defined(per_class.values())
        final["pq" if "pq" in final else "miou"] = seen
    return Scores(per_class, seen, final, images)


@torch.no_grad()
def evaluate(
    method: ContinualMethod,
    loader: Iterable[Mapping[str, Any]],
    vocabulary: Sequence[int],
    kind: TaskKind,
    thing_ids: Sequence[int] = (),
    device: torch.device | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    observe: Observe | None = None,
) -> Scores:
    """Run a method over a test loader and score its answers over `vocabulary`.

    Classification: accuracy a class, and over all images. Semantic: IoU from one confusion matrix. Panoptic: PQ by
    panopticapi's rules, mIoU beside it, and mask AP of things as COCO defines it, NaN for methods that do not score
    instances. Ground truth outside the vocabulary is ignored. `groups` of class ids get
    their own mIoU, `miou_<group>`, and base and novel classes their harmonic mean. `observe` sees every answer.
    """
    vocab = tuple(vocabulary)
    if kind == "classification":
        return _classification(method, loader, vocab, device, observe)
    matrix = ConfusionMatrix(vocab)
    quality = PanopticQuality(vocab, [c for c in thing_ids if c in set(vocab)])
    precision: InstancePrecision | None = None
    for batch in loader:
        prediction = method.predict(to_device(batch, device), vocab)
        if observe is not None:
            observe(batch, prediction)
        if prediction.instances:
            precision = precision or InstancePrecision(quality.thing_ids)
            for truth, instances, crowd in zip(batch["panoptic"], prediction.instances, batch["crowd"], strict=True):
                precision.update(np.asarray(truth), instances, crowd)
        for target, answer in zip(batch["semantic"], prediction.semantic, strict=True):
            matrix.update(np.asarray(target), answer)
        if kind == "panoptic":
            for truth, found, crowd in zip(batch["panoptic"], prediction.panoptic, batch["crowd"], strict=True):
                quality.update(np.asarray(truth), found, crowd)
    ious = matrix.per_class()
    grouped = grouped_iou(matrix.matrix, vocab, groups) if groups else {}
    final = {"miou": mean_defined(ious.values())}
    final |= {f"miou_{name}": value for name, value in grouped.items()}
    final |= matrix.accuracies()
    if kind == "semantic":
        return Scores(ious, final["miou"], final, confusion=matrix.matrix)
    panoptic = quality.compute()
    per_class = dict(panoptic.pop("per_class"))
    ap = precision.compute() if precision else dict.fromkeys(("ap", "ap_50", "ap_75"), math.nan)
    ap.pop("per_class", None)
    return Scores(per_class, panoptic["pq"], {**panoptic, **ap, **final}, confusion=matrix.matrix)


def _classification(
    method: ContinualMethod,
    loader: Iterable[Mapping[str, Any]],
    vocab: tuple[int, ...],
    device: torch.device | None,
    observe: Observe | None,
) -> Scores:
    hits: dict[int, list[bool]] = {c: [] for c in vocab}
    confusion = np.zeros((len(vocab), len(vocab) + 1), np.int64)
    column = {c: i for i, c in enumerate(vocab)}
    for batch in loader:
        prediction = method.predict(to_device(batch, device), vocab)
        if observe is not None:
            observe(batch, prediction)
        found = answers(prediction)
        for label, answer in zip(batch["label"].tolist(), found.tolist(), strict=True):
            if label in hits:
                hits[label].append(answer == label)
                confusion[column[label], column.get(answer, len(vocab))] += 1
    per_class = {c: float(np.mean(h)) if h else math.nan for c, h in hits.items()}
    every = [x for h in hits.values() for x in h]
    accuracy = float(np.mean(every)) if every else math.nan
    final = {"accuracy": accuracy, "mean_class_accuracy": mean_defined(per_class.values())}
    return Scores(per_class, accuracy, final, {c: len(h) for c, h in hits.items()}, confusion)


def answers(prediction: Prediction) -> Int64Array:
    """(B,) class id of the highest score of each image; of equal scores the first in the vocabulary."""
    assert prediction.scores is not None
    columns = prediction.scores.cpu().numpy().argmax(1)
    ids: Int64Array = np.asarray(prediction.vocabulary, dtype=np.int64)[columns]
    return ids


def to_device(batch: Mapping[str, Any], device: torch.device | None) -> Mapping[str, Any]:
    """The image tensor on `device`; targets stay where the metrics read them."""
    if device is None or "image" not in batch:
        return batch
    return {**batch, "image": batch["image"].to(device)}
