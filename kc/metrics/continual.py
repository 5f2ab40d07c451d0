"""Scores of a stream, computed from its score matrix: pure functions and the stateful `ScoreMatrix`.

R (T, T): R[t, i] is the score on task i after learning task t; the formulas in the docstrings count from 1, the code
from 0. NaN marks what was not measured. A result that needs such an entry is NaN, never a mean over what is left, so
that two methods are never compared over different tasks; `undefined_reasons` says which entry is missing.

There are at least five "forgettings" in use. Ours is the published one (Chaudhry et al. 2018, RWalk): the best earlier
score minus the last score, the last row excluded from the maximum, so that it may be negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def as_matrix(matrix: npt.ArrayLike) -> FloatArray:
    """A square float64 matrix; None becomes NaN. Raises ValueError for any other shape."""
    array = np.array(matrix, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"expected a (T, T) score matrix, got shape {array.shape}")
    return array


def average(matrix: npt.ArrayLike) -> float:
    """Final average score: mean_i R[T, i] (Lopez-Paz and Ranzato 2017, GEM)."""
    r = as_matrix(matrix)
    return float(r[-1].mean()) if len(r) else math.nan


def average_incremental(seen_scores: Sequence[float | None]) -> float:
    """Mean over t of the score on all classes seen at t (Rebuffi et al. 2017, iCaRL). `seen_scores` (T,)."""
    scores = np.array(seen_scores, dtype=np.float64)
    return float(scores.mean()) if len(scores) else math.nan


def backward_transfer(matrix: npt.ArrayLike) -> float:
    """1/(T-1) sum_{i<T} (R[T, i] - R[i, i]) (GEM); NaN for one task."""
    r = as_matrix(matrix)
    return float((r[-1] - np.diagonal(r))[:-1].mean()) if len(r) > 1 else math.nan


def forward_transfer(matrix: npt.ArrayLike, baseline: Sequence[float | None]) -> float:
    """1/(T-1) sum_{i>=2} (R[i-1, i] - b_i) (GEM); NaN for one task.

    `baseline` (T,): score on each task at initialisation; its first value is not used.
    """
    r = as_matrix(matrix)
    gains = np.diagonal(r, offset=1) - _one_a_task(r, baseline, "baseline")[1:]
    return float(gains.mean()) if len(r) > 1 else math.nan


def forgetting_per_task(matrix: npt.ArrayLike, t: int | None = None) -> FloatArray:
    """f_i after task t (default: the last): max_{l in 1..t-1} R[l, i] - R[t, i] for every i < t, as (t,) zero-based.

    Rows before task i was learned count where they were measured (a zero-shot score) and may be NaN otherwise; a NaN
    among the rows i..t makes f_i NaN. Negative where the score rose. `t` is zero-based; task 0 gives an empty array.

    Raises:
        ValueError: t is not a row.
    """
    r = as_matrix(matrix)
    last = len(r) - 1 if t is None else t
    if len(r) == 0 and t is None:
        return np.zeros(0)
    if not 0 <= last < len(r):
        raise ValueError(f"row {last} of a matrix of {len(r)} tasks")
    earlier = r[:last, :last].copy()
    untaught = np.triu(np.ones_like(earlier, dtype=bool), 1) & np.isnan(earlier)
    earlier[untaught] = -np.inf
    return np.asarray(earlier.max(axis=0, initial=-np.inf) - r[last, :last])


def forgetting(matrix: npt.ArrayLike) -> float:
    """1/(T-1) sum_{i<T} (max_{l in 1..T-1} R[l, i] - R[T, i]) (RWalk, 2018); may be negative; NaN for one task."""
    values = forgetting_per_task(matrix)
    return float(values.mean()) if len(values) else math.nan


def intransigence(matrix: npt.ArrayLike, joint: Sequence[float | None]) -> float:
    """Mean over the tasks of a_i - R[i, i] (RWalk); may be negative.

    `joint` (T,): a_i, score on task i of joint training on tasks 1..i.
    """
    r = as_matrix(matrix)
    return float((_one_a_task(r, joint, "joint") - np.diagonal(r)).mean()) if len(r) else math.nan


def _one_a_task(r: FloatArray, scores: Sequence[float | None], name: str) -> FloatArray:
    values = np.array(scores, dtype=np.float64)
    if values.shape != (len(r),):
        raise ValueError(f"{name} must hold one score for each of {len(r)} tasks, got shape {values.shape}")
    return values


def undefined_reasons(
    matrix: npt.ArrayLike, seen_scores: Sequence[float | None],
    baseline: Sequence[float | None] | None = None, joint: Sequence[float | None] | None = None,
) -> dict[str, str]:  # fmt: skip
    """Metric -> one short sentence, for each of the six metrics that is NaN. Arguments as in the functions above."""
    r = as_matrix(matrix)
    n = len(r)
    # What each metric reads, in the order in which it is looked through.
    cells: dict[str, list[tuple[int, int]]] = {
        "average": [(n - 1, i) for i in range(n)],
        "backward_transfer": [cell for i in range(n - 1) for cell in ((n - 1, i), (i, i))],
        "forward_transfer": [(i - 1, i) for i in range(1, n)] if baseline is not None else [],
        "forgetting": [(t, i) for i in range(n - 1) for t in range(i, n)],
        "intransigence": [(i, i) for i in range(n)] if joint is not None else [],
    }
    others = {
        "average_incremental": "a score on all seen classes is missing",
        "forward_transfer": "a score at initialisation is missing",
        "intransigence": "a score of joint training is missing",
    }
    if baseline is None:
        others["forward_transfer"] = "the scores at initialisation were not measured"
    if joint is None:
        others["intransigence"] = "needs the scores of joint training"
    reasons = {}
    for name, value in _metrics(r, seen_scores, baseline, joint).items():
        if not math.isnan(value):
            continue
        gap = next(((t, i) for t, i in cells.get(name, ()) if math.isnan(r[t, i])), None)
        if n < 2 and name in ("backward_transfer", "forward_transfer", "forgetting"):
            reasons[name] = "needs at least two tasks"
        elif n == 0:
            reasons[name] = "there is no task"
        elif gap is not None:
            reasons[name] = f"the score on task {gap[1] + 1} after task {gap[0] + 1} is missing"
        else:
            reasons[name] = others[name]
    return reasons


def _metrics(
    r: FloatArray, seen_scores: Sequence[float | None],
    baseline: Sequence[float | None] | None, joint: Sequence[float | None] | None,
) -> dict[str, float]:  # fmt: skip
    return {
        "average": average(r),
        "average_incremental": average_incremental(seen_scores),
        "forgetting": forgetting(r),
        "backward_transfer": backward_transfer(r),
        "forward_transfer": math.nan if baseline is None else forward_transfer(r, baseline),
        "intransigence": math.nan if joint is None else intransigence(r, joint),
    }


class ScoreMatrix:
    """The matrix R of a run, filled row by row, with the score on all seen classes after each task.

    `matrix` (T, T) and `seen` (T,) float64, NaN until set. `baseline` (T,) and `joint` (T,) may be set later.
    """

    def __init__(
        self, n_tasks: int, baseline: Sequence[float | None] | None = None, joint: Sequence[float | None] | None = None
    ) -> None:
        self.matrix: FloatArray = np.full((n_tasks, n_tasks), np.nan)
        self.seen: FloatArray = np.full(n_tasks, np.nan)
        self.baseline = baseline
        self.joint = joint

    def set_row(self, t: int, scores: Sequence[float | None], seen: float | None = None) -> None:
        """Scores after task `t` (zero-based) on tasks 0, 1, ...; tasks not given stay NaN. Replaces an earlier row.

        Raises:
            ValueError: t is not a task of the stream, or there are more scores than tasks.
        """
        n = len(self.matrix)
        if not 0 <= t < n or len(scores) > n:
            raise ValueError(f"{len(scores)} scores for row {t} of a stream of {n} tasks")
        self.matrix[t] = np.nan
        self.matrix[t, : len(scores)] = np.array(scores, dtype=np.float64)
        self.seen[t] = np.nan if seen is None else seen

    def as_lists(self) -> list[list[float | None]]:
        """The matrix for JSON: None where undefined."""
        return [[None if math.isnan(x) else x for x in row] for row in self.matrix.tolist()]

    def metrics(self) -> dict[str, float]:
        """The six metrics of METHODS 5, NaN where undefined."""
        return _metrics(self.matrix, self.seen.tolist(), self.baseline, self.joint)

    def undefined(self) -> dict[str, str]:
        """Why each NaN of `metrics()` is undefined."""
        return undefined_reasons(self.matrix, self.seen.tolist(), self.baseline, self.joint)
