"""The comparison in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kc.report import words
from kc.report.merge import MergedMethod, merge_seeds
from kc.report.records import Results


def sentences(results: Results) -> list[str]:
    """Which method forgot what, which ended best and what each cost, in plain words, most important first."""
    merged = merge_seeds(results)
    if len(results.tasks) == 1:
        out = ["There is one task, so nothing can be forgotten."]
    else:
        known = [m for m in merged if not math.isnan(m.metrics["forgetting"].mean)]
        known.sort(key=lambda m: -m.metrics["forgetting"].mean)
        out = [_forgot(m, results.tasks, most=i == 0 and len(known) > 1) for i, m in enumerate(known)]
        for m in merged:
            if m not in known:
                out.append(f"Forgetting of {m.name} is undefined: {m.undefined['forgetting']}.")
    return out + _ranking(merged) + [_price(merged)] + _caveats(results)


def _caveats(results: Results) -> list[str]:
    """Whether something changed while the numbers were made."""
    out = []
    for m in results.methods:
        if m.versions:
            used = "; ".join(f"{name} {v}" for name, v in m.versions.items())
            out.append(f"{m.name} with seed {m.seed} was computed with other versions than the run says: {used}.")
    if results.accepted_changes:
        out.append(f"The run was resumed though something had changed: {'; '.join(results.accepted_changes)}.")
    return out


def _forgot(m: MergedMethod, tasks: Sequence[Sequence[str]], *, most: bool) -> str:
    """`finetune forgot most, 58.3 points on average: task 1 (background, zero) fell from 71.2 to 3.4.`"""
    mean = m.metrics["forgetting"].mean
    amount = words.points(abs(mean))
    if amount == "0.0":
        text = f"{m.name} forgot nothing on average (0.0 points)"
    elif mean < 0:
        text = f"{m.name} did not forget: old tasks gained {amount} points on average"
    else:
        text = f"{m.name} forgot {'most, ' if most else ''}{amount} points on average"
    fall = _worst_fall(m)
    if fall is None:
        return f"{text}."
    task, before, after = fall
    link = ": " if mean > 0 and amount != "0.0" else ", but "
    return (
        f"{text}{link}{words.task_title(task, tasks[task])} fell from {words.points(before)} to {words.points(after)}."
    )


def _worst_fall(m: MergedMethod) -> tuple[int, float, float] | None:
    """The task that lost most from its best score before the last task to the last: (task, best, last).

    None if no task lost at least 0.1 points.
    """
    best, last = np.fmax.reduce(m.matrix.mean[:-1], initial=np.nan), m.matrix.mean[-1]
    fall = np.nan_to_num((best - last)[:-1], nan=-np.inf)
    task = int(fall.argmax()) if len(fall) else 0
    return (task, float(best[task]), float(last[task])) if len(fall) and fall[task] >= 0.001 else None


def _ranking(merged: Sequence[MergedMethod]) -> list[str]:
    known = [m for m in merged if not math.isnan(m.metrics["average"].mean)]
    if not known:
        return []
    known.sort(key=lambda m: -m.metrics["average"].mean)
    text = [words.points(m.metrics["average"].mean, m.metrics["average"].deviation) for m in known]
    if len(known) == 1:
        return [f"{known[0].name} ends with an average score of {text[0]}."]
    if len(set(text)) == 1:
        return [f"{words.listing([m.name for m in known], 9)} end with the same average score, {text[0]}."]
    first, last = known[0].name, known[-1].name
    return [f"{first} ends with the highest average score, {text[0]}, and {last} with the lowest, {text[-1]}."]


def _price(merged: Sequence[MergedMethod]) -> str:
    """`knn trained nothing in 36 s and keeps 2.9 MiB; finetune trained 1.2 M parameters in 30 s and keeps 4.7 MiB.`"""
    parts = []
    for m in sorted(merged, key=lambda m: m.cost["seconds"].mean):
        trained = m.cost["trained_parameters"].mean
        work = f"trained {words.count(trained)} parameters" if trained else "trained nothing"
        time, stored = words.seconds(m.cost["seconds"].mean), words.size(m.cost["stored_bytes"].mean)
        stored = "all images" if m.all_images else stored
        parts.append(f"{m.name} {work} in {time} and keeps {stored}")
    return "; ".join(parts) + "."
