"""The values that a sweep tries of each method's hyperparameter (`Tunable` in its spec). Loads in milliseconds."""

from __future__ import annotations

import dataclasses
from typing import Any

from kc.config import RunConfig
from kc.errors import KcError
from kc.registry import method_spec
from kc.spec import Tunable, option_name
from kc.types import TaskKind

Value = int | float | str
"""A value of a hyperparameter; str where it has one value a task, such as "0.01,0.001"."""
SCALES = [sign * step for step in range(1, 11) for sign in (1, -1)]


def around(tunable: Tunable, centre: Value, n: int) -> list[Value]:
    """`centre`, then `n` - 1 values outwards, up and down by turns; a text of several numbers moves as a whole.

    Raises KcError for a centre that factors cannot space (0, below, or a share of 1) and where `n` is too many.
    """
    name = option_name(tunable.option)
    numbers = [float(part) for part in str(centre).split(",")]
    if min(numbers) <= 0 or (tunable.odds and max(numbers) >= 1):
        raise KcError(f"{name} {centre}: no grid by factors around it; list its values with --strengths")
    values: list[Value] = [centre]
    for scale in SCALES:
        moved = [_moved(tunable, number, tunable.factor**scale) for number in numbers]
        value = ",".join(f"{m:g}" for m in moved) if isinstance(centre, str) else moved[0]
        inside = min(moved) > 0 and max(moved) <= tunable.high and not (tunable.odds and max(moved) >= 1)
        if inside and value not in values:
            values.append(value)
    if len(values) < n:
        raise KcError(f"--budget {n}: {name} has {len(values)} values around {centre}; list them by --strengths")
    return values[:n]


def _moved(tunable: Tunable, number: float, scale: float) -> int | float:
    if tunable.odds:
        odds = scale * number / (1 - number)
        number, scale = odds / (1 + odds), 1
    return round(number * scale) if tunable.whole else float(f"{number * scale:.3g}")


def default_grid(method: str, config: RunConfig, kind: TaskKind, n: int) -> tuple[str, list[Value]] | None:
    """The option that is tuned (`lr`, or `ewc.lambda_`) and `n` values of it, first the one that `config` has.

    None for a method with nothing to tune.
    """
    spec = method_spec(method)
    tunable = spec.tune if kind == "classification" else spec.tune_maps or spec.tune
    if tunable is None:
        return None
    own: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(spec.options)} | config.of(method)
    if tunable.option not in own:
        return tunable.option, around(tunable, getattr(config, tunable.option), n)
    centre = own[tunable.option]
    return f"{method}.{tunable.option}", around(tunable, tunable.start if centre is None else centre, n)
