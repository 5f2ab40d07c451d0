"""From an image to what the network sees, and from its maps back to the image's own pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from kc.proposals.base import areas, pixels_of
from kc.types import Segments, UInt8Array

MEAN = (122.7709383, 116.7460125, 104.09373615)
STD = (68.5005327, 66.6321579, 70.32316305)
"""CLIP's, in units of 0 to 255."""
DIVISOR = 32


@dataclass(frozen=True)
class Frame:
    """Sizes (height, width) of one image: its own, as resized, and padded at the right and below to whole cells."""

    original: tuple[int, int]
    resized: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """Multiples of `DIVISOR`."""
        height, width = (-(-side // DIVISOR) * DIVISOR for side in self.resized)
        return height, width


def frame_of(size: tuple[int, int], short_side: int, long_side: int) -> Frame:
    """The size at which an image of (height, width) is seen: short side as asked unless the long one would exceed."""
    scale = short_side / min(size)
    # First the short side, then the limit, each rounded as detectron2 does, whose boundary cases decide a pixel.
    height, width = (short_side, scale * size[1]) if size[0] < size[1] else (scale * size[0], short_side)
    if max(height, width) > long_side:
        shrink = long_side / max(height, width)
        height, width = height * shrink, width * shrink
    return Frame(size, (int(height + 0.5), int(width + 0.5)))


def prepare(image: UInt8Array, frame: Frame) -> Tensor:
    """`image` (H, W, 3) uint8 RGB as the network sees it (3, H', W') float32: resized, normalised, padded with 0."""
    resized = Image.fromarray(image).resize(frame.resized[::-1], Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(resized, dtype=np.float32).transpose(2, 0, 1).copy())
    mean, std = torch.tensor([MEAN, STD]).view(2, 3, 1, 1)
    height, width = frame.padded
    return F.pad((pixels - mean) / std, (0, width - frame.resized[1], 0, height - frame.resized[0]))


def to_original(masks: Tensor, frame: Frame) -> Tensor:
    """Mask logits (Q, h, w) of the padded input at the image's own size (Q, H, W): enlarged, cropped, resized."""
    if len(masks) == 0:  # which interpolate refuses in older releases
        return masks.new_zeros(0, *frame.original)
    full = F.interpolate(masks[None], size=frame.padded, mode="bilinear", align_corners=False)
    cropped = full[..., : frame.resized[0], : frame.resized[1]]
    return F.interpolate(cropped, size=frame.original, mode="bilinear", align_corners=False)[0]


def cover(segments: Segments, frame: Frame, grid: tuple[int, int]) -> csr_array:
    """How much of each region falls into each cell of a map (h, w) of the padded input: (N, h w) sparse float32.

    Rows add up to 1; a region without a pixel is a row of zeros. A region smaller than a cell still has one.
    """
    place = [
        np.floor((np.arange(own) + 0.5) * seen / own * cells / padded).astype(np.int64)
        for own, seen, padded, cells in zip(frame.original, frame.resized, frame.padded, grid, strict=True)
    ]
    cell = (place[0][:, None] * grid[1] + place[1][None, :]).ravel()
    region, pixel = pixels_of(segments)
    area = np.bincount(region, minlength=len(segments)).astype(np.float32)
    shape = (len(segments), grid[0] * grid[1])
    return csr_array((1 / area[region], (region, cell[pixel])), shape=shape, dtype=np.float32)


def pool_regions(features: Tensor, weights: csr_array) -> Tensor:
    """Averages (N, C) of `features` (C, h, w) with the `weights` (N, h w) of `cover`, on the device of `features`."""
    flat = features.detach().float().flatten(1).T.cpu().numpy()
    return torch.from_numpy(np.asarray(weights @ flat, dtype=np.float32)).to(features.device)


def overlaps(masks: Tensor, segments: Segments, frame: Frame, weights: csr_array) -> Tensor:
    """Intersection over union (N, Q) of regions with mask logits (Q, h, w) of the padded input, cut at 0, on its grid.

    `weights`: `cover` of the regions on that grid. Cells count by the share of them that a region covers.
    """
    grid = masks.shape[-2:]
    per_cell = np.prod(frame.padded) / np.prod(grid)
    rows, columns = (-(-n * cells // all_) for n, cells, all_ in zip(frame.resized, grid, frame.padded, strict=True))
    own = (masks > 0).cpu()
    own[:, rows:] = False
    own[:, :, columns:] = False
    flat = own.flatten(1).float()
    area = torch.from_numpy(areas(segments) * np.prod(frame.resized) / (np.prod(frame.original) * per_cell)).float()
    meet = torch.from_numpy(np.asarray(weights @ flat.numpy().T, dtype=np.float32)) * area[:, None]
    return (meet / (area[:, None] + flat.sum(1) - meet).clamp_min(1e-6)).to(masks.device)
