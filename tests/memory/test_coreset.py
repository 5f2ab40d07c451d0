"""Greedy k-centre against a loop over pairs."""

from __future__ import annotations

import numpy as np
import pytest

from kc.memory.search.spaces import k_center_greedy


def twin(keys: np.ndarray, n: int, first: int) -> list[int]:
    """The algorithm as the paper writes it, pair by pair."""
    chosen = [first]
    while len(chosen) < n:
        left = [i for i in range(len(keys)) if i not in chosen]
        far = {i: min(float(np.linalg.norm(keys[i] - keys[j])) for j in chosen) for i in left}
        chosen.append(max(left, key=lambda i: (round(far[i], 5), -i)))
    return chosen


def test_twin() -> None:
    keys = np.random.default_rng(0).normal(size=(40, 6))
    keys = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)
    assert k_center_greedy(keys, 40, 3).tolist() == twin(keys, 40, 3)
    assert k_center_greedy(keys, 7).tolist() == k_center_greedy(keys, 40)[:7].tolist()  # every prefix is a coreset


def test_by_hand() -> None:
    """On a circle: from 0 degrees the farthest is 180, then 90 (90 from both), then 30 (30 away from 0)."""
    degrees = np.deg2rad([0, 30, 90, 180, 170])
    keys = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    assert k_center_greedy(keys, 5).tolist() == [0, 3, 2, 1, 4]
    equal = np.repeat(keys[:1], 3, axis=0)
    assert sorted(k_center_greedy(equal, 3).tolist()) == [0, 1, 2]  # copies are still different rows
    for n, first in ((0, 0), (6, 0), (1, 5)):
        with pytest.raises(ValueError, match="n must lie"):
            k_center_greedy(keys, n, first)
