"""Sliding windows as linear algebra: cells of overlapping windows -> pixels, exactly averaged.

Upsampling a window's cells, adding it where it lies, dividing by how many windows cover a pixel and resizing the whole
are each linear and each a product over rows and columns. So all of it is two small matrices: pixels = R cells C^T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kc.types import UInt8Array


@dataclass(frozen=True)
class Axis:
    """Windows along one side of an image of `length` pixels: `window` pixels each, beginning at `starts`, padded by
    `before` and `after` pixels where the network wants a multiple of something."""

    length: int
    window: int
    starts: tuple[int, ...]
    before: int
    after: int

    def counts(self) -> Tensor:
        """How many windows cover each pixel, (length,) float64, at least 1."""
        result = torch.zeros(self.length, dtype=torch.float64)
        for start in self.starts:
            result[start : start + self.window] += 1
        return result

    def matrix(self, cells: int, out: int) -> Tensor:
        """(out, windows * cells) float32: what each of `out` pixels takes from each cell of each window; rows add to 1.

        Cells are upsampled bilinearly (`align_corners=False`) to the padded window, the padding is cut, windows are
        averaged where they overlap and the result is resized to `out` pixels.
        """
        up = linear(cells, self.before + self.window + self.after)[self.before : self.before + self.window]
        rest = (self.length - self.window - start for start in self.starts)
        columns = [F.pad(up, (0, 0, start, after)) for start, after in zip(self.starts, rest, strict=True)]
        averaged = torch.cat(columns, 1) / self.counts()[:, None]
        return (linear(self.length, out) @ averaged).float()


def linear(n: int, m: int) -> Tensor:
    """Linear interpolation of n values to m as a matrix (m, n) float64, cell centres aligned as torch aligns them."""
    eye = torch.eye(n, dtype=torch.float64)
    return eye if n == m else F.interpolate(eye[None], size=m, mode="linear", align_corners=False)[0].T


def axis(length: int, crop: int | None, stride: int | None, pad_to: int = 0) -> Axis:
    """Windows of `crop` every `stride` pixels, the last moved back inside; one window where the side is not longer."""
    window, starts = length, [0]
    if crop is not None and stride is not None and crop < length:
        steps = -(-(length - crop) // stride)
        window, starts = crop, [min(i * stride, length - crop) for i in range(steps + 1)]
    missing = -window % pad_to if pad_to else 0
    return Axis(length, window, tuple(starts), missing // 2, missing - missing // 2)


def cut(images: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Windows (n_rows * n_columns, C, h, w) of one image (C, H, W), row after row, zero-padded."""
    padding = (columns.before, columns.after, rows.before, rows.after)
    places = [(y, x) for y in rows.starts for x in columns.starts]
    return torch.stack([F.pad(images[:, y : y + rows.window, x : x + columns.window], padding) for y, x in places])


def join(windows: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Cells (D, n_rows * h, n_columns * w) of all windows (n_rows * n_columns, D, h, w) side by side."""
    _, d, h, w = windows.shape
    ny, nx = len(rows.starts), len(columns.starts)
    return windows.view(ny, nx, d, h, w).permute(2, 0, 3, 1, 4).reshape(d, ny * h, nx * w)


def resized(image: UInt8Array, short_side: int | None, max_long: int) -> Tensor:
    """`image` (H, W, 3) uint8 as (3, h, w) float32 in [0, 1], its shorter side `short_side` pixels unless the longer
    would exceed `max_long`; None: as it is.

    Bilinear without antialiasing and rounded to whole grey levels, as the public evaluations resize.
    """
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    height, width = image.shape[:2]
    if short_side is not None:
        factor = min(short_side / min(height, width), max_long / max(height, width))
        size = (int(height * factor + 0.5), int(width * factor + 0.5))
        if size != (height, width):
            pixels = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0].round()
    return pixels / 255
