"""Which of many masks are kept: those that are sure, stable, large enough and not there already, up to a budget.

Masks are run lengths (pycocotools), because a hundred overlapping masks of one photograph are 30 MB of bools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco
from torch import Tensor

from kc.types import BoolArray, Float32Array, Int64Array, Segments

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


FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class MaskFilter:
    """What a mask must be to become a region.

    `min_area` pixels; `min_score` and `min_stability` (see `stability`) in [0, 1]; at most `max_overlap` intersection
    over union with a better mask (greedy non-maximum suppression); of the rest the `budget` best.
    """

    min_area: int = 64
    min_score: float = 0.0
    min_stability: float = 0.0
    max_overlap: float = 0.7
    budget: int = 100

    @property
    def key(self) -> str:
        """The settings, as part of a folder name."""
        return f"{self.min_area}-{self.min_score:g}-{self.min_stability:g}-{self.max_overlap:g}-{self.budget}"

    def kept(self, rles: Sequence[Rle], scores: FloatArray, stable: FloatArray | None = None) -> Int64Array:
        """Indices of the masks that stay, best score first (of equals the first); `scores`, `stable` (N,)."""
        good = (areas(rles) >= max(1, self.min_area)) & (scores >= self.min_score)
        if stable is not None:
            good &= stable >= self.min_stability
        order = np.argsort(-scores, kind="stable")
        chosen: list[int] = []
        for i in order[good[order]].tolist():
            if len(chosen) == self.budget:
                break
            better = [rles[j] for j in chosen]
            if not better or overlaps([rles[i]], better).max() <= self.max_overlap:
                chosen.append(i)
        return np.array(chosen, dtype=np.int64)


def stability(logits: Tensor, offset: float = 1.0) -> Float32Array:
    """How little each mask changes with its threshold: |logit > offset| / |logit > -offset| (Kirillov et al. 2023).

    `logits` (N, H, W), a mask being where they are above 0. Returns (N,) float32 in [0, 1]; 0 for an empty mask.
    """
    inner = (logits > offset).flatten(1).sum(1)
    outer = (logits > -offset).flatten(1).sum(1)
    return np.asarray((inner / outer.clamp(min=1)).cpu(), np.float32)


def as_segments(rles: Sequence[Rle], scores: FloatArray, chosen: Int64Array, size: tuple[int, int]) -> Segments:
    """The `chosen` of N masks of an image of `size` (H, W), in that order; scores are cut to [0, 1]."""
    kept = np.clip(scores[chosen], 0, 1).astype(np.float32)
    return Segments(size, kept, masks=decode([rles[i] for i in chosen.tolist()], size))
