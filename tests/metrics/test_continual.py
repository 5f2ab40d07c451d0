"""Continual metrics: hand-solved, against loops over the published formulas, and where they are undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kc.metrics import continual as m

NAN = math.nan
R = [[0.9, NAN, NAN], [0.5, 0.8, NAN], [0.6, 0.4, 0.7]]


def naive(r: np.ndarray, b: np.ndarray, a: np.ndarray) -> dict[str, float]:
    """The table of METHODS 5, one-based as printed."""
    n = len(r)

    def at(t: int, i: int) -> float:
        return float(r[t - 1, i - 1])

    average = sum(at(n, i) for i in range(1, n + 1)) / n
    backward = sum(at(n, i) - at(i, i) for i in range(1, n)) / (n - 1)
    forward = sum(at(i - 1, i) - b[i - 1] for i in range(2, n + 1)) / (n - 1)
    forgetting = sum(max(at(x, i) for x in range(1, n)) - at(n, i) for i in range(1, n)) / (n - 1)
    intransigence = sum(a[i - 1] - at(i, i) for i in range(1, n + 1)) / n
    return {
        "average": average,
        "backward_transfer": backward,
        "forward_transfer": forward,
        "forgetting": forgetting,
        "intransigence": intransigence,
    }


@pytest.mark.parametrize("n", [2, 3, 7])
def test_full_matrices_agree_with_the_printed_formulas(n: int) -> None:
    rng = np.random.default_rng(n)
    r, b, a, seen = rng.random((n, n)), rng.random(n), rng.random(n), rng.random(n)
    scores = m.ScoreMatrix(n, baseline=b.tolist(), joint=a.tolist())
    for t in range(n):
        scores.set_row(t, r[t].tolist(), seen[t])
    expected = {**naive(r, b, a), "average_incremental": sum(seen.tolist()) / n}
    assert scores.metrics() == pytest.approx(expected)
    assert scores.undefined() == {}


def test_hand_solved() -> None:
    assert m.average(R) == pytest.approx((0.6 + 0.4 + 0.7) / 3)
    assert m.backward_transfer(R) == pytest.approx((-0.3 - 0.4) / 2)
    assert m.forgetting(R) == pytest.approx((0.3 + 0.4) / 2)
    assert m.forgetting_per_task(R).tolist() == pytest.approx([0.3, 0.4])
    assert m.forgetting_per_task(R, 1).tolist() == pytest.approx([0.4])
    assert m.forgetting_per_task(R, 0).tolist() == []
    assert m.intransigence(R, [1.0, 0.9, 0.9]) == pytest.approx((0.1 + 0.1 + 0.2) / 3)
    assert m.average_incremental([0.9, 0.65, 0.6]) == pytest.approx(2.15 / 3)


def test_forgetting_is_negative_where_the_last_row_is_the_best() -> None:
    """The maximum leaves the last row out; with it, forgetting could never fall below zero."""
    rising = [[0.5, NAN], [0.8, 0.6]]
    assert m.forgetting(rising) == pytest.approx(-0.3)
    assert m.forgetting_per_task(rising).tolist() == pytest.approx([-0.3])


def test_forgetting_takes_the_best_earlier_score_not_the_first() -> None:
    r = [[0.5, NAN, NAN], [0.9, 0.6, NAN], [0.4, 0.6, 0.7]]
    assert m.forgetting_per_task(r).tolist() == pytest.approx([0.5, 0.0])
    assert m.backward_transfer(r) == pytest.approx(-0.05)


def test_scores_before_a_task_was_learned_count_when_measured() -> None:
    r = [[0.5, 0.9, NAN], [0.5, 0.6, NAN], [0.5, 0.6, 0.7]]
    assert m.forgetting_per_task(r).tolist() == pytest.approx([0.0, 0.3])


def test_forward_transfer_needs_scores_on_unseen_tasks() -> None:
    r = [[0.9, 0.3, NAN], [0.8, 0.8, 0.5], [0.6, 0.4, 0.7]]
    assert m.forward_transfer(r, [NAN, 0.1, 0.2]) == pytest.approx((0.2 + 0.3) / 2)
    assert math.isnan(m.forward_transfer(R, [0.1, 0.1, 0.1]))
    assert math.isnan(m.forward_transfer(r, [0.1, None, 0.1]))


def test_one_task_has_an_average_and_no_transfer() -> None:
    scores = m.ScoreMatrix(1, baseline=[0.1], joint=[0.9])
    scores.set_row(0, [0.8], 0.8)
    values = scores.metrics()
    assert values["average"] == 0.8
    assert values["average_incremental"] == 0.8
    assert values["intransigence"] == pytest.approx(0.1)
    undefined = ("forgetting", "backward_transfer", "forward_transfer")
    assert all(math.isnan(values[name]) for name in undefined)
    assert scores.undefined() == dict.fromkeys(undefined, "needs at least two tasks")


@pytest.mark.parametrize(("t", "i"), [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)])
def test_a_missing_score_makes_forgetting_undefined(t: int, i: int) -> None:
    r = np.array(R)
    r[t, i] = NAN
    per_task = m.forgetting_per_task(r)
    assert math.isnan(per_task[i])
    assert not math.isnan(per_task[1 - i])
    assert math.isnan(m.forgetting(r))
    reasons = m.undefined_reasons(r, [0.9, 0.6, 0.5])
    assert reasons["forgetting"] == f"the score on task {i + 1} after task {t + 1} is missing"
    assert ("average" in reasons) == (t == 2)
    assert ("backward_transfer" in reasons) == (t == 2 or t == i)


def test_reasons() -> None:
    reasons = m.undefined_reasons(R, [0.9, None, 0.6])
    assert reasons == {
        "average_incremental": "a score on all seen classes is missing",
        "forward_transfer": "the scores at initialisation were not measured",
        "intransigence": "needs the scores of joint training",
    }
    with_base = m.undefined_reasons(R, [0.9, 0.7, 0.6], [0.1, 0.1, 0.1], [0.9, NAN, 0.9])
    assert with_base == {
        "forward_transfer": "the score on task 2 after task 1 is missing",
        "intransigence": "a score of joint training is missing",
    }
    full = np.full((2, 2), 0.5)
    assert m.undefined_reasons(full, [0.5, 0.5], [0.1, NAN], [0.5, 0.5]) == {
        "forward_transfer": "a score at initialisation is missing"
    }
    broken = np.array([[NAN, 0.5], [0.5, 0.5]])
    assert m.undefined_reasons(broken, [0.5, 0.5], [0.1, 0.1], [0.5, 0.5])["intransigence"] == (
        "the score on task 1 after task 1 is missing"
    )
    assert set(m.undefined_reasons(np.zeros((0, 0)), []).values()) == {
        "there is no task",
        "needs at least two tasks",
    }


def test_rows_of_a_growing_stream() -> None:
    scores = m.ScoreMatrix(3)
    assert scores.as_lists() == [[None] * 3] * 3
    assert all(math.isnan(v) for v in scores.metrics().values())
    scores.set_row(0, [0.9, 0.3, 0.1], 0.9)
    scores.set_row(0, [0.9], 0.9)
    scores.set_row(1, [0.5, None], 0.6)
    assert scores.as_lists() == [[0.9, None, None], [0.5, None, None], [None, None, None]]
    assert scores.undefined()["average"] == "the score on task 1 after task 3 is missing"
    for t, row in [(3, [0.1]), (-1, [0.1]), (0, [0.1] * 4)]:
        with pytest.raises(ValueError, match="stream of 3 tasks"):
            scores.set_row(t, row)


def test_shapes_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="score matrix"):
        m.average([[0.1, 0.2]])
    with pytest.raises(ValueError, match="baseline"):
        m.forward_transfer(R, [0.1])
    with pytest.raises(ValueError, match="joint"):
        m.intransigence(R, [0.1] * 4)
    with pytest.raises(ValueError, match="row 3"):
        m.forgetting_per_task(R, 3)


def test_an_empty_stream_has_no_score() -> None:
    assert math.isnan(m.average(np.zeros((0, 0))))
    assert math.isnan(m.average_incremental([]))
    assert math.isnan(m.intransigence(np.zeros((0, 0)), []))
    assert m.forgetting_per_task(np.zeros((0, 0))).tolist() == []
