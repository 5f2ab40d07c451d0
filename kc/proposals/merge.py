"""From labelled regions to maps, and from class maps to instances."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from skimage.measure import label as connected

from kc.types import VOID, Int32Array, Int64Array, Segments


def paint(segments: Segments, labels: Int64Array) -> Int64Array:
    """A class-id map (H, W) int64 from regions and their classes (N,); uncovered pixels are VOID.

    Masks that overlap are painted in rising order of score, so that the best one is on top (of equals the last).
    Raises ValueError unless there is one label a region.
    """
    if len(labels) != len(segments):
        raise ValueError(f"{len(labels)} labels for {len(segments)} regions")
    if segments.partition is not None:
        painted: Int64Array = labels[segments.partition]
        return painted
    assert segments.masks is not None
    order = np.argsort(segments.scores, kind="stable")
    rank = np.empty(len(order), np.min_scalar_type(len(order)))
    rank[order] = np.arange(1, len(order) + 1)
    # The highest rank of each pixel: whole masks are multiplied and compared, many times faster than chosen pixels.
    top, ranked = np.zeros((2, *segments.size), rank.dtype)
    for mask, place in zip(segments.masks.view(np.uint8), rank, strict=True):
        np.maximum(top, np.multiply(mask, place, out=ranked), out=top)
    named: Int64Array = np.array([VOID, *labels[order]], np.int64)[top]
    return named


def semantic_to_panoptic(semantic: Int64Array, thing_ids: Iterable[int]) -> Int32Array:
    """A panoptic map (H, W, 2) int32: every 8-connected component of a thing class becomes one instance.

    Touching objects of one class cannot be told apart this way. Stuff and VOID have instance 0.
    """
    ids = np.fromiter(thing_ids, dtype=np.int64)
    # +1: the background value of the labelling must not be a class id. The last entry, 0, is that of VOID (-1).
    number = np.zeros(max(int(semantic.max(initial=0)), int(ids.max(initial=0))) + 2, np.int32)
    number[ids] = ids + 1
    found = np.empty((*semantic.shape, 2), np.int32)
    found[..., 0] = semantic
    found[..., 1] = connected(number[semantic], background=0, connectivity=2)  # type: ignore[no-untyped-call]
    return found


def masks_to_panoptic(segments: Segments, labels: Int64Array, thing_ids: Iterable[int]) -> Int32Array:
    """A panoptic map (H, W, 2) int32 of masks and their classes (N,): every mask of a thing class is one instance.

    Painted as by `paint`, so that what a better mask covers is not seen; instances count from 1 in the order of the
    masks. Stuff and VOID have instance 0, so that masks of one stuff class are one segment. ValueError for a partition,
    whose regions are parts of instances.
    """
    if segments.masks is None:
        raise ValueError("the regions of a partition are no instances: use semantic_to_panoptic")
    category = paint(segments, labels)
    number = np.where(np.isin(labels, np.fromiter(thing_ids, dtype=np.int64)), np.arange(1, len(labels) + 1), 0)
    instance = paint(segments, number.astype(np.int64))
    return np.stack([category, np.where(category == VOID, 0, instance)], axis=-1).astype(np.int32)
