"""Noise, blur, JPEG and contrast at five strengths (ImageNet-C, Hendrycks and Dietterich 2019, arXiv 1903.12261)."""

from __future__ import annotations

import io
import zlib

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

STRENGTHS: dict[str, tuple[float, ...]] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "blur": (1, 2, 3, 4, 6),
    "jpeg": (25, 18, 15, 10, 7),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
}
"""Standard deviation of Gaussian noise, that of a Gaussian blur in pixels, JPEG quality, contrast kept; the values of
the benchmark's public code for images of 224 pixels, applied here to the images as the encoder sees them."""


def corrupted(image: Tensor, kind: str, strength: int, name: str) -> Tensor:
    """An image (3, H, W) float32 in [0, 1] made worse, same shape and range; `strength` from 1 to 5.

    The noise follows from `name` and strength alone, so that an image is always spoilt in the same way. ValueError for
    another kind or strength.
    """
    if kind not in STRENGTHS or not 1 <= strength <= 5:
        raise ValueError(f"corruptions are {', '.join(STRENGTHS)} with strengths 1 to 5, got {kind!r}, {strength}")
    value, pixels = STRENGTHS[kind][strength - 1], image.numpy().astype(np.float64)
    if kind == "noise":
        rng = np.random.default_rng([zlib.crc32(name.encode()), strength])
        pixels = pixels + rng.normal(scale=value, size=pixels.shape)
    elif kind == "blur":
        pixels = gaussian_filter(pixels, sigma=(0, value, value), mode="nearest")
    elif kind == "contrast":
        mean = pixels.mean(axis=(1, 2), keepdims=True)
        pixels = (pixels - mean) * value + mean
    else:
        buffer = io.BytesIO()
        whole = (pixels.transpose(1, 2, 0) * 255).round().astype(np.uint8)
        Image.fromarray(whole).save(buffer, format="JPEG", quality=int(value))
        with Image.open(buffer) as decoded:
            pixels = np.asarray(decoded, np.float64).transpose(2, 0, 1) / 255
    return torch.from_numpy(np.ascontiguousarray(pixels.clip(0, 1).astype(np.float32)))
