"""Scores of the unknown by hand and against pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from kc.memory.unknown import auroc, familiarity, fpr, risk_coverage
from kc.types import Neighbours


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
