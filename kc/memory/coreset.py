"""Greedy k-centre: rows that cover a memory, as PatchCore chooses them (Roth et al. 2022, arXiv 2106.08265, alg. 1)."""

from __future__ import annotations

import numpy as np

from kc.types import Float32Array, Int64Array


def greedy(keys: Float32Array, n: int, first: int = 0) -> Int64Array:
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
