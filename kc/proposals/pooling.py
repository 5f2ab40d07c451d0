"""Masks meet features: every region averages one dense map; every region gets the class that most of it shows."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from kc.proposals.base import pixels_of
from kc.types import VOID, Float32Array, Int64Array, Segments


def coverage(segments: Segments, grid: tuple[int, int]) -> csr_array:
    """How many pixels of each region fall into each cell of a feature map: (N, h * w) sparse float32.

    A pixel (y, x) belongs to cell (floor(y h / H), floor(x w / W)), so a region smaller than a cell still has one.
    """
    height, width = segments.size
    rows = np.arange(height) * grid[0] // height
    columns = np.arange(width) * grid[1] // width
    cell = (rows[:, None] * grid[1] + columns[None, :]).ravel()
    region, pixel = pixels_of(segments)
    shape = (len(segments), grid[0] * grid[1])
    # Entries of one (region, cell) pair add up.
    return csr_array((np.ones(len(region), np.float32), (region, cell[pixel])), shape=shape)


def pool(dense: Tensor, segments: Segments) -> Float32Array:
    """Masked average pooling: the area-weighted mean of `dense` (D, h, w) over each region, L2-normalised.

    Returns (N, D) float32; a region without a pixel, or whose mean is zero, is a zero row.
    """
    weights = coverage(segments, (dense.shape[1], dense.shape[2]))
    # The L2 norm below removes any scale, so that the sum over the region serves as its mean.
    sums = weights @ dense.detach().cpu().float().flatten(1).T.contiguous().numpy()
    keys: Float32Array = F.normalize(torch.from_numpy(np.asarray(sums, dtype=np.float32)), dim=1).numpy()
    return keys


def segment_labels(target: Int64Array, segments: Segments, min_purity: float = 0.5) -> Int64Array:
    """The class (N,) int64 that most labelled pixels of each region have in `target` (H, W); ties to the lowest id.

    A region without a labelled pixel, or whose class holds less than `min_purity` of all its pixels, is VOID: pixels
    without a label count against every class, because a region that is mostly hidden must not be named after its rim.
    Raises ValueError for a target of another size.
    """
    if target.shape != segments.size:
        raise ValueError(f"a label map of {target.shape} for regions of an image of {segments.size}")
    n = len(segments)
    top = int(target.max(initial=0)) + 1
    region, pixel = pixels_of(segments)
    label = target.ravel()[pixel]
    known = label != VOID
    counts = np.bincount(region[known] * top + label[known], minlength=n * top).reshape(n, top)
    best = counts.argmax(axis=1)
    votes = counts[np.arange(n), best]
    pure = (votes > 0) & (votes >= min_purity * np.bincount(region, minlength=n))
    return np.where(pure, best, VOID).astype(np.int64)
