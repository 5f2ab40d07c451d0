"""Score one method on test images: one pass gives the score of every task and of all seen classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from kc.methods.module import ContinualMethod
from kc.metrics.confusion import ConfusionMatrix, mean_defined, pixel_accuracy, recall
from kc.metrics.instances import InstancePrecision
from kc.metrics.panoptic import PanopticQuality
from kc.types import VOID, Int64Array, Prediction, Task, TaskKind

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
        return over_images(self.per_class, self.images, task.class_ids)


def over_images(per_class: Mapping[int, float], images: Mapping[int, int], ids: Iterable[int]) -> float:
    """Accuracy over the images of the classes `ids`; NaN where there are none."""
    held = [c for c in ids if images.get(c)]
    n = sum(images[c] for c in held)
    return sum(per_class[c] * images[c] for c in held) / n if n else math.nan


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
    final = over_domains(parts).final
    if images:
        seen = over_images(per_class, images, per_class)
        final |= {"accuracy": seen, "mean_class_accuracy": mean_defined(per_class.values())}
    else:
        seen = mean_defined(per_class.values())
        final["pq" if "pq" in final else "miou"] = seen
    return Scores(per_class, seen, final, images)


@torch.no_grad()
def evaluate(
    method: ContinualMethod, loader: Iterable[Mapping[str, Any]], vocabulary: Sequence[int], kind: TaskKind,
    thing_ids: Sequence[int] = (), device: torch.device | None = None,
    groups: Mapping[str, Sequence[int]] | None = None, observe: Observe | None = None,
) -> Scores:  # fmt: skip
    """Run a method over a test loader and score its answers over `vocabulary`.

    Classification: accuracy a class, and over all images. Semantic: IoU from one confusion matrix. Panoptic: PQ by
    panopticapi's rules, mIoU beside it, and mask AP of things as COCO defines it, NaN for methods that do not score
    instances. Ground truth outside the vocabulary is ignored. `groups` of class ids get their own mIoU, `miou_<group>`,
    and base and novel classes their harmonic mean. `observe` sees every answer.
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
    final = matrix.compute(groups)
    if kind == "semantic":
        return Scores(matrix.per_class(), final["miou"], final, confusion=matrix.matrix)
    panoptic = quality.compute()
    per_class = dict(panoptic.pop("per_class"))
    ap = precision.compute() if precision else dict.fromkeys(("ap", "ap_50", "ap_75"), math.nan)
    ap.pop("per_class", None)
    return Scores(per_class, panoptic["pq"], {**panoptic, **ap, **final}, confusion=matrix.matrix)


def _classification(
    method: ContinualMethod, loader: Iterable[Mapping[str, Any]], vocab: tuple[int, ...],
    device: torch.device | None, observe: Observe | None,
) -> Scores:  # fmt: skip
    counts = ConfusionMatrix(vocab)
    for batch in loader:
        prediction = method.predict(to_device(batch, device), vocab)
        if observe is not None:
            observe(batch, prediction)
        counts.update(batch["label"].cpu().numpy(), answers(prediction))
    accuracy = pixel_accuracy(counts.matrix)
    per_class = dict(zip(vocab, recall(counts.matrix).tolist(), strict=True))
    images = dict(zip(vocab, counts.matrix.sum(axis=1).tolist(), strict=True))
    final = {"accuracy": accuracy, "mean_class_accuracy": mean_defined(per_class.values())}
    return Scores(per_class, accuracy, final, images, counts.matrix)


def answers(prediction: Prediction) -> Int64Array:
    """(B,) class id of the highest score of each image; of equal scores the first in the vocabulary; VOID, which is
    wrong for every class, where the scores of an image are NaN."""
    assert prediction.scores is not None
    scores = prediction.scores.cpu().numpy()
    found: Int64Array = np.take(np.asarray(prediction.vocabulary, np.int64), scores.argmax(1))
    found[np.isnan(scores).all(axis=1)] = VOID
    return found


def to_device(batch: Mapping[str, Any], device: torch.device | None) -> Mapping[str, Any]:
    """The image tensor on `device`; targets stay where the metrics read them."""
    return batch if device is None or "image" not in batch else {**batch, "image": batch["image"].to(device)}
