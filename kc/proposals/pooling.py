"""Masks meet features: every region averages one dense map; every region gets the class that most of it shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from kc.proposals.base import pixels_of
from kc.types import HIDDEN, VOID, BoolArray, Float32Array, Int64Array, Segments


def coverage(segments: Segments, grid: tuple[int, int]) -> csr_array | Float32Array:
    """How many pixels of each region fall into each cell of a feature map: (N, h * w) float32, sparse or dense.

    A pixel (y, x) belongs to cell (floor(y h / H), floor(x w / W)), so a region smaller than a cell still has one.
    """
    height, width = segments.size
    rows = np.arange(height) * grid[0] // height
    columns = np.arange(width) * grid[1] // width
    if segments.masks is not None and grid[0] <= height and grid[1] <= width:
        starts = (np.searchsorted(cells, np.arange(n)) for cells, n in zip((rows, columns), grid, strict=True))
        return _counts(segments.masks, *starts)
    cell = (rows[:, None] * grid[1] + columns[None, :]).ravel()
    region, pixel = pixels_of(segments)
    shape = (len(segments), grid[0] * grid[1])
    # Entries of one (region, cell) pair add up.
    return csr_array((np.ones(len(region), np.float32), (region, cell[pixel])), shape=shape)


def _counts(masks: BoolArray, rows: Int64Array, columns: Int64Array) -> Float32Array:
    """The same of masks (N, H, W) by the first row and column of each cell: many times faster than pixel by pixel where
    masks are large, because whole rows are added, and as bytes where no sum passes 255."""
    high, wide = (
        int(np.diff([*starts, n]).max(initial=0)) for starts, n in zip((rows, columns), masks.shape[1:], strict=True)
    )
    bands = _sums(masks.view(np.uint8) if high < 256 else masks.astype(np.float32), rows, 1)
    cells = _sums(bands if high * wide < 256 else bands.astype(np.float32), columns, 2)
    return cells.reshape(len(masks), len(rows) * len(columns)).astype(np.float32)


def _sums(values: npt.NDArray[Any], starts: Int64Array, axis: int) -> npt.NDArray[Any]:
    """Sums of the stretches of an axis that begin at `starts`."""
    step, rest = divmod(values.shape[axis], len(starts))
    if rest or not (np.diff(starts) == step).all():
        return np.add.reduceat(values, starts, axis=axis, dtype=values.dtype)
    cells = values.reshape(*values.shape[:axis], len(starts), step, *values.shape[axis + 1 :])
    if axis + 1 < values.ndim:
        return np.asarray(cells.sum(axis=axis + 1, dtype=values.dtype))
    # A sum over a few neighbours each is slow; the same few sums over all of them at once are not.
    total = cells[..., 0].copy()
    for i in range(1, step):
        total += cells[..., i]
    return total


def pool(dense: Tensor, segments: Segments) -> Float32Array:
    """Masked average pooling: the area-weighted mean of `dense` (D, h, w) over each region, L2-normalised.

    Returns (N, D) float32; a region without a pixel, or whose mean is zero, is a zero row.
    """
    weights = coverage(segments, (dense.shape[1], dense.shape[2]))
    # The L2 norm below removes any scale, so that the sum over the region serves as its mean.
    maps = dense.detach().cpu().float().flatten(1)
    if isinstance(weights, np.ndarray):
        # Torch's product, not numpy's: the threads of numpy's BLAS go on spinning while the memory is searched.
        sums = F.linear(torch.from_numpy(weights), maps)
    else:
        sums = torch.from_numpy(np.asarray(weights @ np.ascontiguousarray(maps.numpy().T), np.float32))
    keys: Float32Array = F.normalize(sums, dim=1).numpy()
    return keys


def segment_labels(target: Int64Array, segments: Segments, min_purity: float = 0.5) -> Int64Array:
    """The class (N,) int64 that most labelled pixels of each region have in `target` (H, W); ties to the lowest id,
    and to a class before HIDDEN.

    A region without a labelled pixel, or whose class holds less than `min_purity` of all its pixels, is VOID: pixels
    without a label count against every class, because a region that is mostly hidden must not be named after its rim.
    Raises ValueError for a target of another size.
    """
    if target.shape != segments.size:
        raise ValueError(f"a label map of {target.shape} for regions of an image of {segments.size}")
    n = len(segments)
    hidden = int(target.max(initial=0)) + 1  # the column of HIDDEN, after those of all classes
    region, pixel = pixels_of(segments)
    label = target.ravel()[pixel]
    known = label != VOID
    columns = np.where(label == HIDDEN, hidden, label)[known]
    counts = np.bincount(region[known] * (hidden + 1) + columns, minlength=n * (hidden + 1)).reshape(n, -1)
    best = counts.argmax(axis=1)
    votes = counts[np.arange(n), best]
    pure = (votes > 0) & (votes >= min_purity * np.bincount(region, minlength=n))
    return np.where(pure, np.where(best == hidden, HIDDEN, best), VOID).astype(np.int64)
