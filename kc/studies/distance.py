"""Maximum mean discrepancy between two samples, with a permutation test (Gretton et al. 2012, JMLR 13)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.floating]


def kernel(x: Matrix, y: Matrix, gamma: float | None = None) -> tuple[npt.NDArray[np.float64], float]:
    """Gaussian kernel exp(-gamma |a - b|^2) of the joint sample (N + M, N + M), and gamma.

    gamma defaults to 1 / the median of the squared distances between different points (the median heuristic; 1 where
    that is 0).
    """
    both = np.concatenate([x, y]).astype(np.float64)
    norm = (both**2).sum(1)
    squared = np.maximum(norm[:, None] + norm[None] - 2 * both @ both.T, 0)
    if gamma is None:
        middle = float(np.median(squared[np.triu_indices(len(both), 1)]))
        gamma = 1 / middle if middle > 0 else 1.0
    return np.exp(-gamma * squared), gamma


def mmd2(k: npt.NDArray[np.float64], n: int) -> float:
    """Unbiased MMD^2 (eq. 3) from the joint kernel matrix, whose first `n` rows are one sample. May be below 0.

    ValueError unless both samples have two points.
    """
    m = len(k) - n
    if min(n, m) < 2:
        raise ValueError(f"both samples need two points, got {n} and {m}")
    xx, yy, xy = k[:n, :n], k[n:, n:], k[:n, n:]
    return float((xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean())


def permutation_test(k: npt.NDArray[np.float64], n: int, times: int, seed: int) -> tuple[float, float]:
    """MMD^2 and the share of `times` random divisions, the real one counted in, whose MMD^2 is at least as large."""
    real = mmd2(k, n)
    rng = np.random.default_rng(seed)
    total = len(k)
    m = total - n
    inner, diagonal = k.sum(), np.diag(k)
    larger = 1
    for _ in range(times):
        side = np.zeros(total)
        side[rng.permutation(total)[:n]] = 1
        row = k @ side
        xx, xy = float(side @ row), float((1 - side) @ row)
        yy = float(inner) - xx - 2 * xy
        value = (xx - float(side @ diagonal)) / (n * (n - 1)) - 2 * xy / (n * m)
        value += (yy - float((1 - side) @ diagonal)) / (m * (m - 1))
        larger += value >= real - 1e-12
    return real, larger / (times + 1)
