"""Several seeds of one method as one: mean and sample deviation, for tables and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kc.report.records import COST_NAMES, METRIC_NAMES, FloatArray, MethodResult, MetricName, Results, Score, as_array


@dataclass(frozen=True)
class Stat:
    """Mean and sample deviation (n - 1) over `n` seeds; `mean` NaN if undefined, `deviation` NaN for one seed."""

    mean: float
    deviation: float
    n: int


@dataclass(frozen=True)
class MergedMethod:
    """One method over its seeds. A value undefined for one seed is undefined for the method: a mean over
    the other seeds would compare unlike things.

    `matrix`, `matrix_deviation` (T, T), `seen`, `seen_deviation` (T,), `per_class` name -> (T,), all in [0, 1].
    `confusion`: shares as in `MethodResult`. `forgotten` (T,): mean forgetting after each task, NaN after the first.
    `stored` (T,): bytes kept after each task. `cost`: seconds are summed over tasks, peak bytes and trained
    parameters are the largest of any task, stored bytes are those after the last task.
    """

    name: str
    metric: str
    seeds: tuple[int, ...]
    metrics: Mapping[MetricName, Stat]
    undefined: Mapping[MetricName, str]
    matrix: FloatArray
    matrix_deviation: FloatArray
    seen: FloatArray
    seen_deviation: FloatArray
    per_class: Mapping[str, FloatArray]
    final: Mapping[str, Stat]
    confusion: Mapping[str, Stat]
    forgotten: FloatArray
    forgotten_deviation: FloatArray
    stored: FloatArray
    stored_deviation: FloatArray
    cost: Mapping[str, Stat]


def _stats(values: Sequence[Score] | FloatArray) -> Stat:
    array = as_array(values) if not isinstance(values, np.ndarray) else values
    mean, deviation = _mean_deviation(array)
    return Stat(float(mean), float(deviation), len(array))


def _mean_deviation(stack: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Over the first axis (seeds): mean, and deviation with n - 1 (NaN for one seed)."""
    mean = stack.mean(axis=0)
    return mean, stack.std(axis=0, ddof=1) if len(stack) > 1 else np.full_like(mean, np.nan)


def total_cost(method: MethodResult) -> dict[str, float]:
    """The cost of one method and seed over all tasks, see `MergedMethod.cost`."""
    return {
        "seconds": sum(c.seconds for c in method.cost),
        "peak_rss_bytes": max(c.peak_rss_bytes for c in method.cost),
        "trained_parameters": max(c.trained_parameters for c in method.cost),
        "stored_bytes": method.cost[-1].stored_bytes,
    }


def forgetting_curve(matrix: FloatArray) -> FloatArray:
    """Mean over the tasks i < t of max over earlier rows of R[l, i] - R[t, i], (T,); NaN for t = 0 or a gap in i..t."""
    curve = np.full(len(matrix), np.nan)
    for t in range(1, len(matrix)):
        lost = [np.fmax.reduce(matrix[:t, i]) - matrix[t, i] for i in range(t) if not np.isnan(matrix[i:t, i]).any()]
        if len(lost) == t:
            curve[t] = np.mean(lost)
    return curve


def merge_seeds(results: Results) -> list[MergedMethod]:
    """Mean and deviation over seeds of every method, in the order the methods first appear."""
    groups: dict[str, list[MethodResult]] = {}
    for method in results.methods:
        groups.setdefault(method.name, []).append(method)
    return [_merge(group) for group in groups.values()]


def _merge(group: list[MethodResult]) -> MergedMethod:
    metrics = {name: _stats([getattr(m.metrics, name) for m in group]) for name in METRIC_NAMES}
    reasons: dict[MetricName, str] = {}
    for name in METRIC_NAMES:
        if math.isnan(metrics[name].mean):
            missing = [m for m in group if getattr(m.metrics, name) is None]
            reason = missing[0].undefined.get(name, "no reason was recorded")
            alone = len(missing) < len(group)
            reasons[name] = f"{reason} (seed {', '.join(str(m.seed) for m in missing)})" if alone else reason
    matrix, matrix_deviation = _mean_deviation(np.stack([m.array() for m in group]))
    seen, seen_deviation = _mean_deviation(np.stack([as_array(m.seen) for m in group]))
    costs = [total_cost(m) for m in group]
    classes = [name for name in group[0].per_class if all(name in m.per_class for m in group)]
    forgotten, forgotten_deviation = _mean_deviation(np.stack([forgetting_curve(m.array()) for m in group]))
    bytes_kept = np.array([[c.stored_bytes for c in m.cost] for m in group], dtype=np.float64)
    stored, stored_deviation = _mean_deviation(bytes_kept)
    shares = [name for name in group[0].confusion if all(name in m.confusion for m in group)]
    final = [name for name in group[0].final if all(name in m.final for m in group)]
    return MergedMethod(
        name=group[0].name,
        metric=group[0].metric,
        seeds=tuple(m.seed for m in group),
        metrics=metrics,
        undefined=reasons,
        matrix=matrix,
        matrix_deviation=matrix_deviation,
        seen=seen,
        seen_deviation=seen_deviation,
        per_class={c: np.stack([as_array(m.per_class[c]) for m in group]).mean(axis=0) for c in classes},
        final={name: _stats([m.final[name] for m in group]) for name in final},
        confusion={name: _stats([m.confusion[name] for m in group]) for name in shares},
        forgotten=forgotten,
        forgotten_deviation=forgotten_deviation,
        stored=stored,
        stored_deviation=stored_deviation,
        cost={name: _stats(np.array([c[name] for c in costs], dtype=np.float64)) for name in COST_NAMES},
    )
