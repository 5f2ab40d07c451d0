"""Several seeds of one method as one: mean and sample deviation, for tables and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kc.report.records import METRIC_NAMES, FloatArray, MethodResult, MetricName, Results, Score, as_array


@dataclass(frozen=True)
class Stat:
    """Mean and sample deviation (n - 1) over the seeds; `mean` NaN if undefined, `deviation` NaN for one seed."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Curve:
    """The same of arrays of one shape."""

    mean: FloatArray
    deviation: FloatArray


@dataclass(frozen=True)
class MergedMethod:
    """One method over its seeds. A value undefined for one seed is undefined for the method: a mean over
    the other seeds would compare unlike things.

    `matrix` (T, T), `seen` (T,), `per_class` name -> mean (T,), all in [0, 1].
    `confusion`: shares as in `MethodResult`. `forgotten` (T,): mean forgetting after each task, NaN after the first.
    `stored` (T,): bytes kept after each task. `cost`: seconds are summed over tasks, peak bytes and trained
    parameters are the largest of any task, stored bytes are those after the last task.
    """

    name: str
    metric: str
    seeds: tuple[int, ...]
    metrics: Mapping[MetricName, Stat]
    undefined: Mapping[MetricName, str]
    matrix: Curve
    seen: Curve
    per_class: Mapping[str, FloatArray]
    final: Mapping[str, Stat]
    confusion: Mapping[str, Stat]
    forgotten: Curve
    stored: Curve
    cost: Mapping[str, Stat]
    all_images: bool


NO_STAT = Stat(math.nan, math.nan)
_TOTAL: dict[str, Callable[[list[float]], float]] = {
    "seconds": sum, "peak_rss_bytes": max, "trained_parameters": max, "stored_bytes": lambda values: values[-1],
}  # fmt: skip
"""How the cost of a method follows from that of its tasks."""


def _curve(seeds: Sequence[Any]) -> Curve:
    stack = as_array(seeds)
    mean = stack.mean(axis=0)
    return Curve(mean, stack.std(axis=0, ddof=1) if len(stack) > 1 else np.full_like(mean, np.nan))


def _stat(seeds: Sequence[Score]) -> Stat:
    curve = _curve([[value] for value in seeds])
    return Stat(float(curve.mean[0]), float(curve.deviation[0]))


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
    def shared(table: Literal["final", "confusion", "per_class"]) -> dict[str, list[Any]]:
        """Name -> its value for each seed, where every seed has one."""
        tables = [getattr(m, table) for m in group]
        return {name: [t[name] for t in tables] for name in tables[0] if all(name in t for t in tables)}

    metrics = {name: _stat([getattr(m.metrics, name) for m in group]) for name in METRIC_NAMES}
    reasons: dict[MetricName, str] = {}
    for name in METRIC_NAMES:
        if math.isnan(metrics[name].mean):
            missing = [m for m in group if getattr(m.metrics, name) is None]
            reason = missing[0].undefined.get(name, "no reason was recorded")
            alone = len(missing) < len(group)
            reasons[name] = f"{reason} (seed {', '.join(str(m.seed) for m in missing)})" if alone else reason
    return MergedMethod(
        name=group[0].name,
        metric=group[0].metric,
        seeds=tuple(m.seed for m in group),
        metrics=metrics,
        undefined=reasons,
        matrix=_curve([m.matrix for m in group]),
        seen=_curve([m.seen for m in group]),
        per_class={name: _curve(values).mean for name, values in shared("per_class").items()},
        final={name: _stat(values) for name, values in shared("final").items()},
        confusion={name: _stat(values) for name, values in shared("confusion").items()},
        forgotten=_curve([forgetting_curve(m.array()) for m in group]),
        stored=_curve([[c.stored_bytes for c in m.cost] for m in group]),
        cost={
            name: _stat([total([getattr(c, name) for c in m.cost]) for m in group]) for name, total in _TOTAL.items()
        },
        all_images=any(m.all_images for m in group),
    )
