"""Smaller keys: fewer dimensions (PCA, random projection) or fewer bits (int8, binary), fitted on stored rows only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kc.types import Float32Array

Apply = Callable[[Float32Array], Float32Array]


@dataclass(frozen=True)
class Compressed:
    """`apply` takes keys (N, D) to the keys (N, d) float32, unit norm, that stand for what `bytes` a row can hold."""

    name: str
    dim: int
    bytes: int
    apply: Apply


def unit(keys: Float32Array) -> Float32Array:
    """Rows scaled to norm 1; zero rows stay."""
    norm = np.linalg.norm(keys, axis=1, keepdims=True)
    return np.ascontiguousarray(keys / np.where(norm > 0, norm, 1), np.float32)


def pca(stored: Float32Array, dim: int) -> Compressed:
    """The `dim` directions of largest variance of the stored rows, centred on their mean. ValueError unless
    1 <= dim <= min(N, D)."""
    if not 1 <= dim <= min(stored.shape):
        raise ValueError(f"dim must lie in [1, {min(stored.shape)}], got {dim}")
    mean = stored.mean(0, dtype=np.float64)
    centred = stored - mean
    # Of the smaller of both products: keys are often longer than there are rows.
    if centred.shape[0] >= centred.shape[1]:
        axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :dim]
    else:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        top = vectors[:, ::-1][:, :dim]
        axes = centred.T @ top / np.sqrt(np.maximum(values[::-1][:dim], 1e-12))
    return Compressed(f"PCA {dim}", dim, 4 * dim, lambda keys: unit(((keys - mean) @ axes).astype(np.float32)))


def random_projection(depth: int, dim: int, seed: int = 0) -> Compressed:
    """A Gaussian matrix (Johnson and Lindenstrauss 1984); it needs no data."""
    matrix = np.random.default_rng([seed, dim]).normal(size=(depth, dim)).astype(np.float32)
    return Compressed(f"random projection {dim}", dim, 4 * dim, lambda keys: unit(keys @ matrix))


def int8(stored: Float32Array) -> Compressed:
    """Each dimension in 255 steps between -m and m, m its largest magnitude among the stored rows; beyond is cut."""
    largest = np.abs(stored).max(0)
    step = np.where(largest > 0, largest, np.float32(1)) / np.float32(
        127
    )  # a dimension without a value needs no steps of its own
    depth = stored.shape[1]
    return Compressed(
        "int8", depth, depth, lambda keys: unit((np.clip(np.rint(keys / step), -127, 127) * step).astype(np.float32))
    )


def binary(stored: Float32Array) -> Compressed:
    """The sign of each dimension beside the stored rows' mean: the cosine is 1 - 2 Hamming / D."""
    mean, depth = stored.mean(0), stored.shape[1]
    return Compressed("binary", depth, -(-depth // 8), lambda keys: unit(np.where(keys > mean, 1, -1)))


def chained(first: Compressed, second: Compressed) -> Compressed:
    """`first`, then `second`, which was fitted on what `first` makes of the stored rows."""
    name = f"{first.name}, {second.name}"
    return Compressed(name, second.dim, second.bytes, lambda keys: second.apply(first.apply(keys)))
