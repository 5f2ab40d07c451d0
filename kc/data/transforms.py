"""Joint transforms of an image and its label maps. Labels are only ever picked, never interpolated."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from kc.types import Int64Array, UInt8Array


def image_to_tensor(image: UInt8Array, size: tuple[int, int]) -> Tensor:
    """An RGB image (H, W, 3) uint8 as (3, h, w) float32 in [0, 1], resized to `size` (h, w): bilinear, antialiased."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    if tuple(tensor.shape[1:]) != tuple(size):
        tensor = tvf.resize(tensor, list(size), interpolation=tvf.InterpolationMode.BILINEAR, antialias=True)
    return tensor.contiguous().float().div_(255.0)


@lru_cache(maxsize=256)
def nearest_indices(n_in: int, n_out: int) -> Int64Array:
    """(n_out,) int64, read-only: the input cell under the centre of each output cell, in exact integer arithmetic."""
    indices: Int64Array = ((2 * np.arange(n_out, dtype=np.int64) + 1) * n_in) // (2 * n_out)
    indices.flags.writeable = False
    return indices


def resize_labels(labels: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """A label map (H, W) or (H, W, 2) at `size` (h, w) by nearest neighbour; same dtype, no new value.

    Cell centres are aligned with the image's resize (torch's `nearest-exact`), so masks do not drift by half a pixel.
    """
    if labels.shape[:2] == tuple(size):
        return labels
    rows, columns = nearest_indices(labels.shape[0], size[0]), nearest_indices(labels.shape[1], size[1])
    return labels.take(rows, axis=0).take(columns, axis=1)


def flips(seed: int, epoch: int, index: int) -> bool:
    """Whether sample `index` is mirrored in `epoch`: a fair coin of (seed, epoch, index), whoever asks and when."""
    return bool(np.random.default_rng((seed, epoch, index)).random() < 0.5)


def flip_labels(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A label map (H, W) or (H, W, 2) mirrored left to right, as `flip_image` mirrors its image."""
    return np.ascontiguousarray(labels[:, ::-1])


def flip_image(image: Tensor) -> Tensor:
    """An image (..., H, W) mirrored left to right."""
    return image.flip(-1)
