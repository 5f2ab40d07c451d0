"""Which of many masks are kept: those that are sure, stable, large enough and not there already, up to a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from kc.proposals.rle import Rle, areas, decode, overlaps
from kc.types import Float32Array, Int64Array, Segments

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
