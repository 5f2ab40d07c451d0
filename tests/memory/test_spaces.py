"""Maps between key spaces: exact where one exists, and against closed forms written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from kc.memory.search.spaces import PENALTIES, fit_map


def unit(n: int, d: int, seed: int) -> np.ndarray:
    keys = np.random.default_rng(seed).normal(size=(n, d))
    return (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)


def test_a_rotation_is_found_again() -> None:
    old = unit(30, 8, 0)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    new = (old @ turn).astype(np.float32)
    found = fit_map(old, new, "orthogonal")
    assert np.allclose(found.matrix, turn, atol=1e-5)
    fresh = unit(5, 8, 2)
    assert np.allclose(found(fresh), fresh @ turn, atol=1e-5)
    assert np.allclose(fit_map(old, new, "ridge")(fresh), fresh @ turn, atol=1e-3)


def test_orthogonal_is_scipys_procrustes() -> None:
    old, new = unit(40, 6, 3), unit(40, 6, 4)
    want, _ = orthogonal_procrustes(old.astype(np.float64), new.astype(np.float64))
    assert np.allclose(fit_map(old, new, "orthogonal").matrix, want, atol=1e-9)
    wide = fit_map(old, unit(40, 9, 5), "orthogonal").matrix
    assert np.allclose(wide @ wide.T, np.eye(6), atol=1e-9)


def test_ridge_is_the_normal_equations_with_the_best_score() -> None:
    """Penalty by generalised cross-validation, written with the hat matrix instead of singular values."""
    rng = np.random.default_rng(6)
    old = unit(25, 7, 7)
    new = (old @ rng.normal(size=(7, 4)) + 0.3 * rng.normal(size=(25, 4))).astype(np.float32)
    x, y = old.astype(np.float64), new.astype(np.float64)
    scale = float((np.linalg.svd(x, compute_uv=False) ** 2).mean())
    scores = {}
    for share in PENALTIES:
        hat = x @ np.linalg.inv(x.T @ x + share * scale * np.eye(7)) @ x.T
        scores[share * scale] = float(((y - hat @ y) ** 2).sum()) / (25 - np.trace(hat)) ** 2
    best = min(scores, key=lambda c: scores[c])
    found = fit_map(old, new, "ridge")
    assert found.penalty == pytest.approx(best)
    assert np.allclose(found.matrix, np.linalg.solve(x.T @ x + best * np.eye(7), x.T @ y), atol=1e-6)
    assert PENALTIES[0] * scale < found.penalty < PENALTIES[-1] * scale


def test_fewer_rows_than_dimensions_and_errors() -> None:
    old, new = unit(6, 32, 8), unit(6, 16, 9)
    for kind in ("orthogonal", "ridge"):
        moved = fit_map(old, new, kind)(old)
        assert moved.shape == (6, 16)
        assert np.allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-5)
    assert (fit_map(old, new)(np.zeros((1, 32), np.float32)) == 0).all()
    with pytest.raises(ValueError, match="map must be one of"):
        fit_map(old, new, "affine")
    with pytest.raises(ValueError, match="at least two rows"):
        fit_map(old[:1], new[:1])
    with pytest.raises(ValueError, match="at least two rows"):
        fit_map(old, new[:5])
