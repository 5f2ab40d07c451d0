"""Confusion matrix against torchmetrics, a pixel loop and hand-solved cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional.classification import multiclass_jaccard_index

from kc.metrics.confusion import (
    ConfusionMatrix,
    class_groups,
    confusion,
    grouped_iou,
    harmonic_mean,
    iou,
    mean_class_accuracy,
    mean_iou,
    old_and_new,
    pixel_accuracy,
    recall,
)
from kc.types import VOID, Task


def random_pair(seed: int, n_classes: int, shape: tuple[int, int] = (40, 30)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, n_classes, shape)
    prediction = np.where(rng.random(shape) < 0.6, target, rng.integers(0, n_classes, shape))
    target[rng.random(shape) < 0.1] = VOID
    return target, prediction


def naive(target: np.ndarray, prediction: np.ndarray, ids: list[int]) -> np.ndarray:
    matrix = np.zeros((len(ids), len(ids) + 1), dtype=np.int64)
    for t, p in zip(target.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if t in ids and t != VOID:
            matrix[ids.index(t), ids.index(p) if p in ids else len(ids)] += 1
    return matrix


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_torchmetrics(seed: int) -> None:
    n = 7
    target, prediction = random_pair(seed, n)
    matrix = confusion(target, prediction, range(n))
    reference = MulticlassConfusionMatrix(n, ignore_index=VOID)
    t, p = torch.from_numpy(target), torch.from_numpy(prediction)
    np.testing.assert_array_equal(matrix[:, :n], reference(p, t).numpy())
    assert not matrix[:, n].any()
    expected = multiclass_jaccard_index(p, t, n, average="none", ignore_index=VOID).numpy()
    np.testing.assert_allclose(iou(matrix), expected, rtol=1e-6)
    assert mean_iou(matrix) == pytest.approx(float(expected.mean()), abs=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_ids_with_gaps_in_any_order_and_type(dtype: type) -> None:
    rng = np.random.default_rng(0)
    ids = [200, 3, 17]
    values = np.array([*ids, 5, 255 if dtype == np.uint8 else VOID], dtype=dtype)
    target, prediction = rng.choice(values, (25, 30)), rng.choice(values, (25, 30))
    np.testing.assert_array_equal(confusion(target, prediction, ids), naive(target, prediction, ids))


def test_ids_beyond_the_table_and_negative_ones_are_none_of_the_classes() -> None:
    target = np.array([0, 1, -1, 70_000, 300, 1])
    prediction = np.array([70_000, -5, 0, 0, 300, 1])
    assert confusion(target, prediction, [0, 1, 300]).tolist() == [[0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0]]


def test_answering_none_of_the_classes_is_a_miss_but_nobodys_false_positive() -> None:
    target = np.array([0, 0, 0, 1, 1, VOID])
    prediction = np.array([0, VOID, 9, 1, 1, 0])
    matrix = confusion(target, prediction, [0, 1])
    assert matrix.tolist() == [[1, 0, 2], [0, 2, 0]]
    assert iou(matrix).tolist() == [pytest.approx(1 / 3), 1.0]
    assert pixel_accuracy(matrix) == pytest.approx(3 / 5)
    assert recall(matrix).tolist() == [pytest.approx(1 / 3), 1.0]
    assert mean_class_accuracy(matrix) == pytest.approx(2 / 3)


def test_a_class_absent_from_the_truth_is_undefined_even_when_predicted() -> None:
    matrix = confusion(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]), [0, 1, 2])
    values = iou(matrix)
    assert values[0] == 0.75
    assert np.isnan(values[1:]).all()
    assert mean_iou(matrix) == 0.75
    assert math.isnan(mean_iou(matrix, [1, 2]))


def test_nothing_counted_is_undefined_not_zero() -> None:
    empty = ConfusionMatrix([0, 1])
    assert all(math.isnan(v) for v in empty.compute().values())
    empty.update(np.full((2, 2), VOID), np.zeros((2, 2), int))
    assert all(math.isnan(v) for v in empty.compute().values())


def test_stateful_equals_functional() -> None:
    ids = list(range(5))
    pairs = [random_pair(seed, 5) for seed in range(4)]
    whole, left = ConfusionMatrix(ids), ConfusionMatrix(ids)
    for t, p in pairs:
        whole.update(t, p)
        left.update(t.astype(np.uint8), p.astype(np.int32))
    np.testing.assert_array_equal(whole.matrix, sum(confusion(t, p, ids) for t, p in pairs))
    np.testing.assert_array_equal(left.matrix, whole.matrix)
    assert left.matrix.dtype == np.int64
    assert whole.compute()["miou"] == mean_iou(whole.matrix)
    assert whole.per_class() == dict(zip(ids, iou(whole.matrix).tolist(), strict=True))


def test_groups_and_their_harmonic_mean() -> None:
    tasks = [
        Task(0, (4, 2), (4, 2), ("a", "b")),
        Task(1, (7,), (4, 2, 7), ("c",)),
        Task(2, (1,), (4, 2, 7, 1), ("d",)),
    ]
    groups = class_groups(tasks, 2)
    assert groups == {"base": (4, 2), "novel": (7, 1), "old": (4, 2, 7), "new": (1,)}
    # IoU: 4 -> 1/2 (one of two missed as 2), 2 -> 1/2, 7 -> 1, 1 -> 0
    target = np.array([4, 4, 2, 7, 1])
    prediction = np.array([4, 2, 2, 7, VOID])
    ids = tasks[2].seen_ids
    scores = grouped_iou(confusion(target, prediction, ids), ids, {**groups, "all": ids})
    assert scores == pytest.approx({"base": 0.5, "novel": 0.5, "old": 2 / 3, "new": 0.0, "all": 0.5, "harmonic": 0.5})
    first = grouped_iou(confusion(target, prediction, ids), ids, class_groups(tasks, 0))
    assert math.isnan(first["novel"])
    assert math.isnan(first["old"])
    assert math.isnan(first["harmonic"])
    with pytest.raises(ValueError, match="99"):
        grouped_iou(confusion(target, prediction, ids), ids, {"all": [99]})


def test_harmonic_mean() -> None:
    assert harmonic_mean(0.4, 0.6) == pytest.approx(0.48)
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.0, 0.5) == 0.0
    assert math.isnan(harmonic_mean(0.5, math.nan))


@pytest.mark.parametrize("ids", [[0, 0], [-1, 0], [0, VOID]])
def test_unusable_class_ids(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="class ids"):
        ConfusionMatrix(ids)


def test_maps_of_different_size() -> None:
    with pytest.raises(ValueError, match="same shape"):
        confusion(np.zeros((2, 3), int), np.zeros((3, 2), int), [0])


def test_old_and_new_by_hand() -> None:
    """Classes a, b (old) and c (new); the last column is no class."""
    matrix = np.array([[6, 1, 2, 1], [0, 5, 5, 0], [4, 0, 3, 1]])
    found = old_and_new(matrix, [2])
    assert found == pytest.approx(
        {
            "old_right": 11 / 20, "old_as_old": 1 / 20, "old_as_new": 7 / 20, "old_as_none": 1 / 20,
            "new_right": 3 / 8, "new_as_old": 4 / 8, "new_as_new": 0, "new_as_none": 1 / 8,
        }
    )  # fmt: skip
    assert math.isnan(old_and_new(matrix, [])["new_right"])
    assert old_and_new(matrix, [1, 2])["new_as_new"] == pytest.approx(5 / 18)
