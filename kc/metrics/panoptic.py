"""Panoptic quality by the rules of panopticapi (Kirillov et al. 2019): functions and the stateful `PanopticQuality`.

A segment is a (category, instance) pair of an (H, W, 2) map. The rules:
- ground truth that is void or of a category not evaluated is void; predicted void and other categories are no segment;
- a predicted and a true segment of one category match where IoU > 0.5, with the void pixels of the prediction removed
  from the union; crowds never match;
- an unmatched true segment is a false negative unless it is a crowd;
- an unmatched predicted segment is a false positive unless more than half of it lies on void or on crowds of its
  category. (panopticapi keeps one crowd a category, COCO has no more; here all crowds of the category count.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.metrics.confusion import FloatArray, mean_defined
from kc.types import VOID, BoolArray, Int64Array

PanopticMap = npt.NDArray[np.integer[Any]]

_BLOCK = 1 << 18
"""Pixels looked at in one step: what that makes stays in the cache, and needs no new memory from the system."""


@dataclass
class PanopticStats:
    """Counts of C classes, in the order of `class_ids`: `iou_sum` of the matches, `tp`, `fp`, `fn`, each (C,)."""

    class_ids: tuple[int, ...]
    iou_sum: FloatArray
    tp: Int64Array
    fp: Int64Array
    fn: Int64Array

    @classmethod
    def zeros(cls, class_ids: Sequence[int]) -> PanopticStats:
        n = len(class_ids)
        return cls(tuple(class_ids), np.zeros(n), *np.zeros((3, n), np.int64))

    def add(self, other: PanopticStats) -> None:
        """Add the counts of other images over the same classes."""
        if other.class_ids != self.class_ids:
            raise ValueError(f"cannot add counts over classes {other.class_ids} to those over {self.class_ids}")
        for name in ("iou_sum", "tp", "fp", "fn"):
            np.add(getattr(self, name), getattr(other, name), out=getattr(self, name))


@dataclass(frozen=True)
class _Segments:
    """The segments of two maps in one table. `truth`, `found` (R,): segment of each run, 0 = void; `category` (S,): its
    column, -1 = void; `instance` (S,)."""

    truth: Int64Array
    found: Int64Array
    category: Int64Array
    instance: Int64Array


def _pixels(panoptic: PanopticMap) -> PanopticMap:
    """(H*W,) int64 view of (H, W, 2), both numbers of a pixel in one; (H*W, 2) where they are not four bytes each."""
    if panoptic.dtype == np.int32 and panoptic.flags.c_contiguous:
        return panoptic.view(np.int64).reshape(-1)
    return panoptic.reshape(-1, 2)


def _changes(pixels: PanopticMap) -> BoolArray:
    """(n - 1,) bool of n pixels: whether one differs from the one before it."""
    changes: BoolArray = np.asarray(pixels[1:] != pixels[:-1])
    return changes if changes.ndim == 1 else np.logical_or.reduce(changes, axis=1)


def _runs(target: PanopticMap, prediction: PanopticMap) -> tuple[Int64Array, Int64Array]:
    """(R,) first pixel and (R,) length of the runs of `_pixels` in which, in reading order, neither map changes."""
    n = len(target)
    begins = np.empty(n, dtype=np.bool_)
    begins[:1] = True
    for first in range(1, n, _BLOCK):
        block = slice(first - 1, first + _BLOCK)
        np.logical_or(_changes(target[block]), _changes(prediction[block]), out=begins[first : first + _BLOCK])
    starts = np.flatnonzero(begins)
    return starts, np.diff(starts, append=n)


def _largest(values: Int64Array) -> int:
    """The largest of int64 values read as unsigned: those below 0 are the largest. Both ends in one pass."""
    return int(values.view(np.uint64).max(initial=0))


def _distinct(codes: Int64Array) -> tuple[Int64Array, Callable[[Int64Array], Int64Array]]:
    """Sorted distinct codes, and what gives each code of `codes` the value of its distinct one."""
    top = _largest(codes)
    if codes.size and top < 1 << 20:
        # Marking instead of sorting: several times faster, and every usual map fits.
        present = np.zeros(top + 1, dtype=np.bool_)
        present[codes] = True
        marked = np.flatnonzero(present)

        def given(values: Int64Array) -> Int64Array:
            table = np.empty(top + 1, dtype=np.int64)
            table[marked] = values
            return table.take(codes)

        return marked, given
    distinct, inverse = np.unique(codes, return_inverse=True)
    return distinct, lambda values: values.take(inverse.ravel())


@lru_cache(maxsize=16)
def _positions(class_ids: tuple[int, ...]) -> dict[int, int]:
    return {c: i for i, c in enumerate(class_ids) if c != VOID}


def _at(pixels: PanopticMap, starts: Int64Array) -> PanopticMap:
    """(R, 2): both numbers of some of `_pixels`."""
    return pixels.take(starts).view(np.int32).reshape(-1, 2) if pixels.ndim == 1 else pixels[starts]


def _segments(target: PanopticMap, prediction: PanopticMap, starts: Int64Array, class_ids: Sequence[int]) -> _Segments:
    """Segments of the evaluated classes; every other pixel belongs to segment 0."""
    maps = _at(target, starts), _at(prediction, starts)
    category, instance = (np.concatenate([m[:, i] for m in maps], dtype=np.int64) for i in (0, 1))
    low, span = 0, _largest(instance) + 1
    if span > 1 << 32:
        low = int(instance.min())
        span = int(instance.max(initial=0)) - low + 1
        instance = instance - low
    # From VOID on, so that codes of usual maps are not negative.
    codes, given = _distinct((category - VOID) * span + instance)
    position = _positions(tuple(class_ids))
    columns = np.array([position.get(c, -1) for c in (codes // span + VOID).tolist()], dtype=np.int64)
    kept = columns >= 0
    index = given(np.where(kept, np.cumsum(kept), 0))
    void = np.array([-1], dtype=np.int64)
    return _Segments(
        index[: len(starts)],
        index[len(starts) :],
        np.concatenate([void, columns[kept]]),
        np.concatenate([void, codes[kept] % span + low]),
    )


def panoptic_stats(
    target: PanopticMap, prediction: PanopticMap, class_ids: Sequence[int], crowd: Iterable[int] = ()
) -> PanopticStats:
    """Matches and errors of one image.

    Args:
        target: (H, W, 2) true category (VOID = unlabelled) and instance number.
        prediction: (H, W, 2) predicted category (VOID = no answer) and instance number.
        class_ids: C class ids that are evaluated.
        crowd: true instance numbers whose segments are crowds.

    Raises:
        ValueError: the maps are not (H, W, 2) or differ in size.
    """
    if target.shape != prediction.shape or target.ndim != 3 or target.shape[-1] != 2:
        raise ValueError(f"expected two (H, W, 2) maps of one size, got {target.shape} and {prediction.shape}")
    pixels = _pixels(target), _pixels(prediction)
    starts, lengths = _runs(*pixels)
    segments = _segments(*pixels, starts, class_ids)
    category, n_segments = segments.category, len(segments.category)
    # Pixels of each pair of segments, from runs of them. Sums of whole numbers: exact in float64.
    pairs = segments.truth * n_segments + segments.found
    overlap = np.bincount(pairs, lengths, n_segments**2).astype(np.int64).reshape(n_segments, -1)
    truth_area, found_area = overlap.sum(axis=1), overlap.sum(axis=0)
    whole = real = category >= 0  # `whole`: but crowds
    ignored = overlap[0]
    union = truth_area[:, None] + (found_area - overlap[0]) - overlap
    ious = overlap / np.maximum(union, 1)
    same = category[:, None] == category
    if crowds := list(crowd):
        is_crowd = np.isin(segments.instance, crowds) & real
        whole = real & ~is_crowd
        ignored = ignored + (overlap * (is_crowd[:, None] & same)).sum(axis=0)
    # Above one half a segment has at most one partner, so no assignment problem is left to solve.
    rows, columns = np.nonzero(same & whole[:, None] & (ious > 0.5))
    missed = whole & (truth_area > 0)
    missed[rows] = False
    extra = real & (found_area > 0) & (ignored / np.maximum(found_area, 1) <= 0.5)
    extra[columns] = False
    n, matched = len(class_ids), category[rows]
    counts = [np.bincount(c, minlength=n).astype(np.int64) for c in (matched, category[extra], category[missed])]
    return PanopticStats(
        tuple(class_ids), np.bincount(matched, ious[rows, columns], n).astype(np.float64, copy=False), *counts
    )


def class_qualities(stats: PanopticStats) -> dict[str, FloatArray]:
    """`pq`, `sq`, `rq` of each class, (C,) in [0, 1]; NaN for classes neither true nor predicted anywhere.

    SQ = mean IoU of the matches (0 without one), RQ = TP / (TP + FP/2 + FN/2), PQ = SQ x RQ.
    """
    seen = stats.tp + stats.fp / 2 + stats.fn / 2
    defined = seen > 0
    denominator, matches = np.where(defined, seen, 1.0), np.maximum(stats.tp, 1)
    values = {"pq": stats.iou_sum / denominator, "sq": stats.iou_sum / matches, "rq": stats.tp / denominator}
    return {name: np.where(defined, value, np.nan) for name, value in values.items()}


def panoptic_quality(stats: PanopticStats, thing_ids: Iterable[int]) -> dict[str, float]:
    """`pq`, `sq`, `rq` averaged over all classes, and each with `_things` and `_stuff`; NaN where no class is defined.

    Classes without any true or false positive or false negative are left out of the means.
    """
    things = np.isin(stats.class_ids, list(thing_ids))
    parts = {"": np.ones(len(things), dtype=bool), "_things": things, "_stuff": ~things}
    return {
        name + suffix: mean_defined(values[part])
        for suffix, part in parts.items()
        for name, values in class_qualities(stats).items()
    }


class PanopticQuality:
    """Panoptic quality over a stream of images; `stats` holds the counts."""

    def __init__(self, class_ids: Sequence[int], thing_ids: Iterable[int] = ()) -> None:
        self.thing_ids = frozenset(thing_ids)
        unknown = self.thing_ids - set(class_ids)
        if unknown or len(set(class_ids)) != len(class_ids):
            raise ValueError(f"class ids must be distinct and hold every thing, got {list(class_ids)}, {unknown}")
        self.stats = PanopticStats.zeros(class_ids)

    def update(self, target: PanopticMap, prediction: PanopticMap, crowd: Iterable[int] = ()) -> None:
        """Add one image: two (H, W, 2) maps and the true instance numbers that are crowds."""
        self.stats.add(panoptic_stats(target, prediction, self.stats.class_ids, crowd))

    def per_class(self) -> Mapping[int, float]:
        """Class id -> PQ in [0, 1], NaN where the class is neither true nor predicted."""
        return dict(zip(self.stats.class_ids, class_qualities(self.stats)["pq"].tolist(), strict=True))

    def compute(self) -> dict[str, Any]:
        """The nine means of `panoptic_quality`, and `per_class`: class id -> PQ."""
        return {**panoptic_quality(self.stats, self.thing_ids), "per_class": self.per_class()}
