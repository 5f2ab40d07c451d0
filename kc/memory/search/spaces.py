"""Spaces of keys: smaller keys, linear maps between encoders, and coresets that cover a memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kc.types import Float32Array, Int64Array

Float64Array = npt.NDArray[np.float64]
PENALTIES: tuple[float, ...] = tuple(10.0**e for e in range(-6, 4))
"""Ridge penalties that are tried, as shares of the mean squared singular value of the keys."""
MAPS = ("orthogonal", "ridge")


@dataclass(frozen=True)
class SpaceMap:
    """x -> x W / |x W|: `matrix` W (D_old, D_new) float64, fitted on `rows` rows; `penalty` of ridge, else 0."""

    kind: str
    matrix: Float64Array
    penalty: float
    rows: int

    def __call__(self, keys: Float32Array) -> Float32Array:
        """Keys (N, D_old) as unit keys (N, D_new) float32; one that maps to nothing stays zero."""
        moved = keys.astype(np.float64) @ self.matrix
        norm = np.linalg.norm(moved, axis=1, keepdims=True)
        return np.ascontiguousarray((moved / np.where(norm > 0, norm, 1.0)).astype(np.float32))


def fit_map(old: Float32Array, new: Float32Array, kind: str = "ridge") -> SpaceMap:
    """The map that takes the keys `old` (N, D_old) nearest to `new` (N, D_new) of the same rows.

    orthogonal: the W with orthonormal columns or rows that minimises |old W - new|_F, from the SVD of old^T new
    (Schoenemann 1966). ridge: the W that minimises |old W - new|_F^2 + c |W|_F^2, its c chosen among PENALTIES by
    generalised cross-validation (Golub, Heath and Wahba 1979) on these rows alone. ValueError for another kind, tables
    of different lengths, or fewer than two rows.
    """
    if kind not in MAPS:
        raise ValueError(f"map must be one of {', '.join(MAPS)}, got {kind!r}")
    if len(old) != len(new) or len(old) < 2:
        raise ValueError(f"a map is fitted on at least two rows of both encoders, got {len(old)} and {len(new)}")
    x, y = old.astype(np.float64), new.astype(np.float64)
    if kind == "orthogonal":
        u, _, vt = np.linalg.svd(x.T @ y, full_matrices=False)
        return SpaceMap(kind, u @ vt, 0.0, len(x))
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    target = u.T @ y
    outside = float((y**2).sum() - (target**2).sum())
    best: tuple[float, float] | None = None
    for share in PENALTIES:
        penalty = share * float((s**2).mean())
        shrunk = s**2 / (s**2 + penalty)
        left = float((((1 - shrunk)[:, None] * target) ** 2).sum()) + max(outside, 0.0)
        freedom = len(x) - float(shrunk.sum())
        score = left / freedom**2 if freedom > 1e-9 * len(x) else np.inf
        if best is None or score < best[0]:
            best = (score, penalty)
    assert best is not None
    return SpaceMap(kind, vt.T @ ((s / (s**2 + best[1]))[:, None] * target), best[1], len(x))


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


def k_center_greedy(keys: Float32Array, n: int, first: int = 0) -> Int64Array:
    """Positions (n,) of rows in the order in which they are chosen, so that every prefix is a coreset too.

    Starts at `first`; each next row is the one whose nearest chosen row is farthest (L2), ties to the lowest position.
    keys: (N, D) of unit norm. The largest distance left is at most twice the best possible with n rows (Gonzalez
    1985). Looks at keys only, never at classes. ValueError unless 1 <= n <= N and 0 <= first < N.
    """
    if not 1 <= n <= len(keys) or not 0 <= first < len(keys):
        raise ValueError(f"n must lie in [1, {len(keys)}] and first in [0, {len(keys)}), got {n} and {first}")
    chosen = np.empty(n, np.int64)
    # Of unit vectors the farthest in L2 has the lowest inner product.
    nearest = np.full(len(keys), -np.inf, np.float32)
    row = first
    for i in range(n):
        chosen[i] = row
        np.maximum(nearest, keys @ keys[row], out=nearest)
        nearest[row] = np.inf
        row = int(nearest.argmin())
    return chosen
