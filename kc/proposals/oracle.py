"""Ground-truth segments as regions: the upper bound that separates errors of naming from errors of masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.proposals.base import from_partition
from kc.types import VOID, Int64Array, Segments

IntMap = npt.NDArray[np.integer[Any]]
_INSTANCE_BITS = 32


def propose_from(target: IntMap) -> tuple[Segments, Int64Array]:
    """The labelled segments of one image.

    Args:
        target: (H, W, 2) panoptic map (a segment is a category and instance), or (H, W) class ids (a segment is all
            pixels of a class). VOID pixels belong to no segment.

    Returns:
        Segments as masks (N, H, W), every score 1, ordered by class id and instance; and their class ids (N,) int64.
    """
    category = np.asarray(target[..., 0] if target.ndim == 3 else target, dtype=np.int64)
    instance = np.asarray(target[..., 1] if target.ndim == 3 else np.zeros_like(target), dtype=np.int64)
    pairs = np.stack([category[category != VOID], instance[category != VOID]], axis=1)
    found = np.unique(pairs, axis=0)
    masks = (category == found[:, 0, None, None]) & (instance == found[:, 1, None, None])
    height, width = category.shape
    return Segments((height, width), np.ones(len(found), np.float32), masks=masks), found[:, 0]


def partition_from(target: IntMap) -> Segments:
    """The segments of one image as a partition (H, W) that also holds one region for VOID, for readers of partitions.

    `target` as in `propose_from`. Regions are ordered by class id and instance, HIDDEN and VOID last. The `number` of a
    region is made of its class and instance, so that it stays when other classes of the image become visible; that of
    HIDDEN and VOID is negative.
    """
    category = np.asarray(target if target.ndim == 2 else target[..., 0], dtype=np.int64)
    top = int(category.max(initial=0))
    category = np.where(category < 0, category + top + 3, category)
    instance = np.zeros_like(category) if target.ndim == 2 else target[..., 1].astype(np.int64)
    low = int(instance.min(initial=0))
    span = int(instance.max(initial=0)) - low + 1
    combined = category * span + (instance - low)
    values = np.unique(combined)
    number = np.where(values // span > top, -1 - values, (values // span << _INSTANCE_BITS) + values % span + low)
    return replace(from_partition(combined), number=number)
