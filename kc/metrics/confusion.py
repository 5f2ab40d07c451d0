"""Semantic segmentation scores from one int64 confusion matrix: functions and the stateful `ConfusionMatrix`.

The matrix is (C, C + 1): row = true class, column = predicted class, both in the order of `class_ids`. The last column
counts pixels answered with none of them (void, a hidden or a future class): a miss of the true class, and a false
positive of nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.types import VOID, Int64Array, Task

FloatArray = npt.NDArray[np.float64]
IntMap = npt.NDArray[np.integer[Any]]


def confusion(target: IntMap, prediction: IntMap, class_ids: Sequence[int], ignore: int = VOID) -> Int64Array:
    """Confusion matrix (C, C + 1) of one pair of maps; see the head of this module.

    Args:
        target: true class ids, any shape, any integer type. Pixels with `ignore` or an id outside `class_ids` are
            dropped.
        prediction: predicted class ids, the same shape.
        class_ids: C distinct class ids.
        ignore: the label that does not count.

    Raises:
        ValueError: shapes differ, an id is negative, given twice or equal to `ignore`.
    """
    return _count(target, prediction, _lookup(class_ids, ignore), len(class_ids))


def _lookup(class_ids: Sequence[int], ignore: int) -> Int64Array:
    """Table id -> column, C where the id is none of them, as is its last entry, which is that of VOID (-1) too."""
    if len(set(class_ids)) != len(class_ids) or any(c < 0 or c == ignore for c in class_ids):
        raise ValueError(f"class ids must be distinct, not negative and not {ignore}, got {list(class_ids)}")
    # At least 257 entries, so that uint8 maps are looked up without a range check.
    table = np.full(max([255, *class_ids]) + 2, len(class_ids), dtype=np.int64)
    table[list(class_ids)] = np.arange(len(class_ids))
    return table


def _columns(labels: IntMap, table: Int64Array) -> Int64Array:
    """Column of each label; negative and too large ids are none of the classes."""
    flat = labels.ravel()
    if flat.dtype != np.uint8 and flat.size and (flat.min() < -1 or flat.max() >= len(table)):
        flat = np.where((flat < 0) | (flat >= len(table)), len(table) - 1, flat)
    return table[flat]


def _count(target: IntMap, prediction: IntMap, table: Int64Array, n_classes: int) -> Int64Array:
    if target.shape != prediction.shape:
        raise ValueError(f"target {target.shape} and prediction {prediction.shape} must have the same shape")
    # Row C collects dropped ground truth and is cut off: cheaper than selecting the pixels that count.
    pairs = _columns(target, table) * (n_classes + 1) + _columns(prediction, table)
    counts = np.bincount(pairs, minlength=(n_classes + 1) ** 2)
    return counts.reshape(n_classes + 1, n_classes + 1)[:n_classes].astype(np.int64)


def iou(matrix: Int64Array) -> FloatArray:
    """Intersection over union (C,) in [0, 1] of a (C, C + 1) matrix; NaN for classes absent from the ground truth.

    An absent class stays NaN even where it was predicted: those pixels already count as misses of the true classes.
    """
    truth = matrix.sum(axis=1)
    hits = np.diagonal(matrix)
    union = truth + matrix[:, : len(matrix)].sum(axis=0) - hits
    return np.where(truth > 0, hits / np.maximum(union, 1), np.nan)


def recall(matrix: Int64Array) -> FloatArray:
    """Accuracy (C,) in [0, 1] on the pixels of each class; NaN for classes absent from the ground truth."""
    truth = matrix.sum(axis=1)
    return np.where(truth > 0, np.diagonal(matrix) / np.maximum(truth, 1), np.nan)


def mean_iou(matrix: Int64Array, rows: Sequence[int] | None = None) -> float:
    """Mean IoU over the classes present in the ground truth; NaN when there is none.

    `rows` restricts the mean to these positions of `class_ids`; their IoU still counts confusions with all classes.
    """
    values = iou(matrix)
    return mean_defined(values if rows is None else values[list(rows)])


def pixel_accuracy(matrix: Int64Array) -> float:
    """Share of labelled pixels that are right, in [0, 1]; NaN when there is none."""
    total = int(matrix.sum())
    return int(np.trace(matrix)) / total if total else math.nan


def mean_class_accuracy(matrix: Int64Array) -> float:
    """Mean of `recall` over the classes present in the ground truth; NaN when there is none."""
    return mean_defined(recall(matrix))


def class_groups(tasks: Sequence[Task], t: int) -> dict[str, tuple[int, ...]]:
    """The groups that papers report after task `t`: class ids of the first task and of all later ones (base, novel),
    and of all earlier tasks and of this one (old, new)."""
    parts = {"base": tasks[:1], "novel": tasks[1 : t + 1], "old": tasks[:t], "new": tasks[t : t + 1]}
    return {name: tuple(c for task in part for c in task.class_ids) for name, part in parts.items()}


def grouped_iou(matrix: Int64Array, class_ids: Sequence[int], groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """mIoU of each group of class ids, in [0, 1], and `harmonic`: the harmonic mean of `base` and `novel`.

    NaN for a group without a class in the ground truth, and for `harmonic` where one of its two is NaN or not given.

    Raises:
        ValueError: a group holds an id that is not in `class_ids`.
    """
    position = {c: i for i, c in enumerate(class_ids)}
    if unknown := {c for ids in groups.values() for c in ids} - position.keys():
        raise ValueError(f"groups hold class ids {sorted(unknown)} that are not among {list(class_ids)}")
    result = {name: mean_iou(matrix, [position[c] for c in ids]) for name, ids in groups.items()}
    return {**result, "harmonic": harmonic_mean(result.get("base", math.nan), result.get("novel", math.nan))}


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b); 0 where both are 0, NaN where one is NaN."""
    return 0.0 if a == b == 0 else 2 * a * b / (a + b)


def mean_defined(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN when there is none."""
    kept = np.array([v for v in values if not math.isnan(v)])
    return float(kept.mean()) if len(kept) else math.nan


class ConfusionMatrix:
    """Confusion matrix over a stream of images; `matrix` (C, C + 1) int64 as in `confusion`."""

    def __init__(self, class_ids: Sequence[int], ignore: int = VOID) -> None:
        self.class_ids = tuple(class_ids)
        self.matrix: Int64Array = np.zeros((len(self.class_ids), len(self.class_ids) + 1), dtype=np.int64)
        self._table = _lookup(self.class_ids, ignore)

    def update(self, target: IntMap, prediction: IntMap) -> None:
        """Add one pair of maps of class ids, of the same shape."""
        self.matrix += _count(target, prediction, self._table, len(self.class_ids))

    def per_class(self) -> dict[int, float]:
        """Class id -> IoU in [0, 1], NaN where the class never occurred in the ground truth."""
        return dict(zip(self.class_ids, iou(self.matrix).tolist(), strict=True))

    def compute(self, groups: Mapping[str, Sequence[int]] | None = None) -> dict[str, float]:
        """`miou`, with `groups` also `miou_<group>` and `miou_harmonic` of `grouped_iou`, and the two accuracies."""
        found = {"": mean_iou(self.matrix)} | (grouped_iou(self.matrix, self.class_ids, groups) if groups else {})
        scores = {f"miou_{name}".rstrip("_"): value for name, value in found.items()}
        accuracies = {"pixel_accuracy": pixel_accuracy, "mean_class_accuracy": mean_class_accuracy}
        return scores | {name: of(self.matrix) for name, of in accuracies.items()}


def old_and_new(matrix: Int64Array, new: Sequence[int]) -> dict[str, float]:
    """What becomes of old and of new classes, as shares of their pixels (or images) in [0, 1]; NaN without any.

    `matrix` (C, C + 1): rows the truth, columns the answers, the last one for no class; `new`: positions of the new
    classes, all others are old. For each group G: `G_right`, `G_as_old` and `G_as_new` (another class, which is old or
    new), `G_as_none`; the four add up to 1.
    """
    n = len(matrix)
    is_new = np.zeros(n, dtype=bool)
    is_new[list(new)] = True
    found: dict[str, float] = {}
    for group, rows in (("old", ~is_new), ("new", is_new)):
        total = int(matrix[rows].sum())
        right = int(np.diagonal(matrix)[rows].sum())
        counts = {"right": right}
        for answer, columns in (("old", ~is_new), ("new", is_new)):
            counts[f"as_{answer}"] = int(matrix[rows][:, :n][:, columns].sum()) - (right if answer == group else 0)
        counts["as_none"] = int(matrix[rows][:, n].sum())
        found |= {f"{group}_{key}": count / total if total else math.nan for key, count in counts.items()}
    return found
