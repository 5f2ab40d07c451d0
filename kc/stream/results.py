"""From the states of all methods to the one record that travels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kc.metrics.continual import ScoreMatrix
from kc.report.records import Cost, MethodResult, Metrics, Results
from kc.stream.resume import MethodState

CLOSED = "before it is learned a class cannot be predicted by this method, so there is no score to transfer"


def build_results(
    states: Sequence[MethodState], *, benchmark: str, task_kind: Any, setting: Any, split: str | None,
    tasks: Sequence[Sequence[str]], seeds: Sequence[int], config: Mapping[str, Any], versions: Mapping[str, str],
    fingerprints: Mapping[str, str], own_configs: Mapping[str, Mapping[str, Any]] | None = None,
    accepted_changes: Sequence[str] = (), read_bytes: Sequence[int] | None = None,
) -> Results:  # fmt: skip
    """The record of a finished run; `own_configs`: those of methods that ran with another than `config`.

    Intransigence needs `joint` among the methods (a_i = its R[i, i], same seed).
    """
    joint = {
        s.seed: [row[t] if t < len(row) else None for t, row in enumerate(s.rows)] for s in states if s.name == "joint"
    }
    own = own_configs or {}
    return Results(
        benchmark=benchmark, task_kind=task_kind, split=split, setting=setting,
        seed=seeds[0] if len(seeds) == 1 else list(seeds), tasks=[list(names) for names in tasks],
        methods=[method_result(s, tasks, joint.get(s.seed), own.get(s.name, config), versions) for s in states],
        accepted_changes=list(accepted_changes), versions=dict(versions), fingerprints=dict(fingerprints),
        config=dict(config), read_bytes=None if read_bytes is None else list(read_bytes),
    )  # fmt: skip


def method_result(
    state: MethodState,
    tasks: Sequence[Sequence[str]],
    joint: list[float | None] | None,
    config: Mapping[str, Any],
    versions: Mapping[str, str] | None = None,
) -> MethodResult:
    """The record of one method and seed; `joint[i]` is the score of joint training on task i, where it ran.

    `versions`: those of the run, which are said again of a method only where it was computed with others.
    """
    scores = ScoreMatrix(len(tasks), state.baseline or None, joint)
    for t, (row, seen) in enumerate(zip(state.rows, state.seen, strict=True)):
        scores.set_row(t, row, seen)
    values = {k: None if math.isnan(v) else v for k, v in scores.metrics().items()}
    undefined: dict[Any, str] = dict(scores.undefined())
    if "forward_transfer" in undefined and not state.baseline and len(tasks) > 1:
        undefined["forward_transfer"] = CLOSED
    names = [name for task in tasks for name in task]
    return MethodResult(
        name=state.name, seed=state.seed, config=dict(config), metric=state.metric, matrix=scores.as_lists(),
        metrics=Metrics(**values), undefined=undefined, seen=list(state.seen), final=dict(state.final),
        confusion=dict(state.confusion), all_images=state.all_images,
        per_class={n: [after.get(n) for after in state.per_class] for n in names},
        cost=[Cost.model_validate(c) for c in state.cost],
        versions={k: ", ".join(v) for k, v in state.versions.items() if v != [(versions or {}).get(k, v[0])]},
    )  # fmt: skip
