"""From the key space of one encoder to that of another: linear maps fitted on rows that both have encoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kc.types import Float32Array

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


def fit(old: Float32Array, new: Float32Array, kind: str = "ridge") -> SpaceMap:
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
