"""Scores of the unknown by hand and against pairs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from kc.memory.disk import Memory
from kc.memory.vote import evaluation as unknown
from kc.memory.vote.evaluation import auroc, familiarity, fpr, neighbour_cosines, novelty_threshold, risk_coverage
from kc.types import Neighbours, Rows


def test_familiarity_by_hand() -> None:
    found = Neighbours(
        np.array([[1, 2, 3], [4, 5, 6]]), np.array([[0.9, 0.6, 0.3], [0.5, 0.5, 0.5]], np.float32),
        np.array([[7, 7, 0], [1, 2, 3]]), np.ones((2, 3), np.float32), np.zeros((2, 3), np.int64),
    )  # fmt: skip
    got = familiarity(found)
    assert got["nearest"].tolist() == pytest.approx([0.9, 0.5])
    assert got["kth"].tolist() == pytest.approx([0.3, 0.5])
    assert got["mean"].tolist() == pytest.approx([0.6, 0.5])
    assert got["agreement"].tolist() == pytest.approx([2 / 3 + 3e-4, 1 / 3 + 0.5e-3 / 3])


def test_what_is_near_in_a_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    angle = np.radians([0, 10, 30, 90])
    keys = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    with Memory.create(tmp_path / "memory", dim=2, fingerprint="e") as memory:
        memory.add(Rows(keys[:3], np.zeros(3, np.int64), ("a", "b", "c"), np.zeros(3, np.int64)), 0)
        memory.commit(0)
        memory.add(Rows(keys[3:], np.ones(1, np.int64), ("d",), np.zeros(1, np.int64)), 1)
        memory.commit(1)
        # Each row's nearest other row: 10, 10, 20 and 60 degrees away.
        assert np.allclose(neighbour_cosines(memory), np.cos(np.radians([60, 20, 10, 10])), atol=1e-6)
        assert np.allclose(neighbour_cosines(memory, at=0), np.cos(np.radians([20, 10, 10])), atol=1e-6)
        # Rows of one image do not count for each other, however near; a fifth row is another region of c.
        memory.add(Rows(keys[2:3], np.zeros(1, np.int64), ("c",), np.ones(1, np.int64)), 2)
        memory.commit(2)
        assert np.allclose(neighbour_cosines(memory), np.cos(np.radians([60, 20, 20, 10, 10])), atol=1e-6)
        memory.remove([4])
        monkeypatch.setattr(unknown, "MAX_SAMPLES", 2)
        assert np.allclose(
            neighbour_cosines(memory), np.cos(np.radians([60, 10])), atol=1e-6
        )  # the first and the last row
        memory.reweight([0, 1, 2], 0)
        assert len(neighbour_cosines(memory)) == 0
    assert novelty_threshold(np.arange(21) / 20) == 0.05  # 20 of 21 values reach it
    assert novelty_threshold(np.zeros(0)) == -math.inf


def test_auroc_and_fpr_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(1, 1, 200).round(1), rng.normal(0, 1, 90).round(1)  # rounded: ties
    truth, score = np.r_[np.ones(200), np.zeros(90)], np.r_[known, unknown]
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, score))
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    assert fpr(known, unknown) == pytest.approx(false[true >= 0.95 - 1e-12].min())
    # By hand: 2 of 2 known must pass, so the threshold is 0.4 and half of the unknown passes.
    assert fpr(np.array([0.9, 0.4]), np.array([0.5, 0.1])) == 0.5
    assert math.isnan(fpr(known, unknown[:0]))
    assert math.isnan(auroc(known[:0], unknown))


def test_risk_coverage_by_hand() -> None:
    confidence = np.array([0.1, 0.9, 0.5, 0.7])
    right = np.array([False, True, False, True])
    risks, area = risk_coverage(confidence, right, [0.25, 0.5, 0.75, 1.0])
    assert risks == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert area == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    # All alike: no order is invented, every share errs by half.
    flat, area = risk_coverage(np.ones(4), right, [0.25, 1.0])
    assert flat == [0.5, 0.5]
    assert area == 0.5
    empty, area = risk_coverage(confidence[:0], right[:0], [1.0])
    assert math.isnan(empty[0])
    assert math.isnan(area)
