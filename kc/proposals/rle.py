"""Masks as run lengths (pycocotools), because a hundred overlapping masks of one photograph are 30 MB of bools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from kc.types import BoolArray, Int64Array

Rle = dict[str, Any]
"""`size` [H, W] and `counts`, the compressed run lengths as ASCII bytes."""


def encode(masks: BoolArray) -> list[Rle]:
    """Run lengths of masks (N, H, W)."""
    if len(masks) == 0:
        return []
    return list(coco.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))))


def decode(rles: Sequence[Rle], size: tuple[int, int]) -> BoolArray:
    """The masks (N, H, W) bool; `size` (H, W) says what none of them looks like. ValueError for another size."""
    if not rles:
        return np.zeros((0, *size), dtype=bool)
    if any(tuple(rle["size"]) != tuple(size) for rle in rles):
        raise ValueError(f"masks of {sorted({tuple(rle['size']) for rle in rles})}, expected {size}")
    return np.ascontiguousarray(coco.decode(list(rles)).transpose(2, 0, 1), dtype=bool)


def areas(rles: Sequence[Rle]) -> Int64Array:
    """Pixels of each mask, (N,) int64."""
    return np.asarray(coco.area(list(rles)) if rles else [], dtype=np.int64)


def overlaps(first: Sequence[Rle], second: Sequence[Rle]) -> npt.NDArray[np.float64]:
    """Intersection over union of every pair, (N, M) float64; 0 where both are empty."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.nan_to_num(np.asarray(coco.iou(list(first), list(second), [0] * len(second)), dtype=np.float64))
