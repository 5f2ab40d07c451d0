"""Pixel-adaptive mask refinement (Araslanov and Roth 2020, arXiv 2005.08104): scores follow the edges of the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

OFFSETS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))


def pamr(image: Tensor, maps: Tensor, steps: int, dilations: Sequence[int] = (8, 16)) -> Tensor:
    """`maps` (C, H, W) refined on `image` (K, H, W): `steps` times, each pixel becomes a mean of its neighbours.

    Neighbours are the 8 around a pixel at each of the `dilations`, beyond the border the border's own pixels. Weights:
    softmax over all neighbours of the mean over channels of -|x_i - x_j| / (0.1 sigma_i), sigma_i the deviation
    (unbiased) over the same neighbours and the pixel itself, once a dilation. Raises ValueError for another size.
    """
    if image.shape[1:] != maps.shape[1:]:
        raise ValueError(f"an image of {tuple(image.shape[1:])} for maps of {tuple(maps.shape[1:])}")
    around = torch.stack(list(_neighbours(image, dilations)))
    centre = image.expand(len(dilations), *image.shape)
    sigma = torch.cat([around, centre]).std(0)
    weights = (-(image - around).abs() / (1e-8 + 0.1 * sigma)).mean(1).softmax(0)
    for _ in range(steps):
        # Summed one neighbour at a time: all at once would hold 16 copies of hundreds of class maps.
        refined = torch.zeros_like(maps)
        for weight, moved in zip(weights, _neighbours(maps, dilations), strict=True):
            refined += weight * moved
        maps = refined
    return maps


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    height, width = maps.shape[1:]
    for d in dilations:
        padded = F.pad(maps[None], (d, d, d, d), mode="replicate")[0]
        for dy, dx in OFFSETS:
            yield padded[:, d + dy * d : d + dy * d + height, d + dx * d : d + dx * d + width]
