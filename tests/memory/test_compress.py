"""Compressed keys against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from kc.memory.search.spaces import binary, chained, int8, pca, random_projection, unit


@pytest.mark.parametrize("n", [60, 12])
def test_pca_is_scikit_learns(n: int) -> None:
    """Both ways round: more rows than dimensions, and fewer."""
    rng = np.random.default_rng(0)
    stored = unit(rng.normal(size=(n, 20)).astype(np.float32) * np.linspace(2, 0.1, 20, dtype=np.float32))
    fresh = unit(rng.normal(size=(9, 20)).astype(np.float32))
    want = unit(PCA(5, svd_solver="full").fit(stored).transform(fresh).astype(np.float32))
    got = pca(stored, 5).apply(fresh)
    assert np.allclose(got @ got.T, want @ want.T, atol=1e-4)  # axes are free in sign
    assert pca(stored, 5).bytes == 20
    with pytest.raises(ValueError, match="dim must lie"):
        pca(stored, 21)


def test_bits_by_hand() -> None:
    stored = np.array([[1.27, -0.5], [0, 0.25]], np.float32)
    made = int8(stored)
    # Steps of 0.01 and 0.5 / 127; 3 is beyond and cut to 1.27.
    got = made.apply(np.array([[3.0, 0.25]], np.float32))
    assert np.allclose(got[0] / got[0, 0], [1, np.rint(0.25 / (0.5 / 127)) * (0.5 / 127) / 1.27], atol=1e-6)
    assert made.bytes == 2
    bits = binary(np.array([[0.0, 1, 2], [2, 3, 2]], np.float32))  # mean 1, 2, 2
    assert np.allclose(bits.apply(np.array([[1.5, 1, 2]], np.float32)) * 3**0.5, [[1, -1, -1]])
    assert bits.bytes == 1
    keys = unit(np.random.default_rng(1).normal(size=(4, 24)).astype(np.float32))
    signs = binary(keys).apply(keys)
    hamming = (np.sign(signs)[:, None] != np.sign(signs)[None]).sum(2)
    assert np.allclose(signs @ signs.T, 1 - 2 * hamming / 24, atol=1e-6)


def test_projection_and_chain() -> None:
    keys = unit(np.random.default_rng(2).normal(size=(30, 400)).astype(np.float32))
    first = random_projection(400, 256, seed=1)
    assert np.abs(first.apply(keys) @ first.apply(keys).T - keys @ keys.T).max() < 0.3
    assert np.array_equal(first.apply(keys), random_projection(400, 256, seed=1).apply(keys))
    both = chained(first, int8(first.apply(keys)))
    assert (both.dim, both.bytes, both.name) == (256, 256, "random projection 256, int8")
    assert np.abs((both.apply(keys) * first.apply(keys)).sum(1) - 1).max() < 1e-3
