"""Rows drawn around real ones, where a study needs more than there are; tables count them in a column of their own."""

from __future__ import annotations

import numpy as np

from kc.studies.regions import Regions
from kc.types import Float32Array, Int64Array


def median_cosines(regions: Regions) -> tuple[float, float]:
    """Median cosine of a region with its nearest of the same class in another image, and of another class.

    Over regions that have both; the second is returned as the first where it is higher (classes overlap entirely).
    """
    cosine = regions.keys @ regions.keys.T
    cosine[regions.image[:, None] == regions.image[None]] = -2
    same = regions.label[:, None] == regions.label[None]
    within = np.where(same, cosine, -2).max(1)
    between = np.where(same, -2, cosine).max(1)
    known = (within > -2) & (between > -2)
    if not known.any():
        return 0.9, 0.8
    inner = float(np.median(within[known]))
    return inner, min(inner, float(np.median(between[known])))


def near_keys(keys: Float32Array, cosine: float, seed: int) -> Float32Array:
    """A unit vector near each of `keys` (N, D), at this cosine (above 0), in a direction drawn evenly."""
    noise = np.random.default_rng(seed).normal(size=keys.shape)
    noise -= (noise * keys).sum(1, keepdims=True) * keys
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    moved = cosine * keys + np.sqrt(1 - cosine**2) * noise
    result: Float32Array = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    return result


def with_simulated(regions: Regions, n: int, seed: int) -> tuple[Regions, int]:
    """`n` rows: real ones drawn by `seed`, then simulated ones around them with their classes, each from an image of
    its own; and how many are simulated."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(regions.label))
    real = regions.at(order[:n])
    missing = n - len(real.label)
    if missing <= 0:
        return real, 0
    chosen: Int64Array = rng.integers(0, len(real.label), missing)
    inner, _ = median_cosines(real.at(np.arange(min(len(real.label), 4_000))))
    near = real.at(chosen)
    new_images = np.arange(missing) + int(regions.image.max()) + 1
    return real + Regions(near_keys(near.keys, inner, seed), near.codes, near.label, new_images), missing
