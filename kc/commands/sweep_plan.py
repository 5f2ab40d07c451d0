"""What `kc sweep` tries: values of one hyperparameter of each method, from a file or spaced around the default as the
method's spec says (`Tunable`). Loads in milliseconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Gt, Lt

from kc.config import RunConfig
from kc.data.manifest import load_manifest
from kc.errors import KcError, unknown_name
from kc.methods.training_options import TrainingOptions
from kc.registry import METHODS, method_spec
from kc.resolve import resolve
from kc.spec import Count, Tunable, option_name, validated
from kc.types import TaskKind

Value = int | float | str
"""A value of a hyperparameter; str where it has one value a task, such as "0.01,0.001"."""
Grid = tuple[str, list[Value]]
"""A hyperparameter as a user writes it, `lr` or `ewc.lambda`, and the values to try, in order."""
Plan = dict[str, Grid]
"""Method -> its grid; methods without a hyperparameter to tune are not in it."""
SCALES = [sign * step for step in range(1, 11) for sign in (1, -1)]


@dataclass(frozen=True)
class SweepConfig(RunConfig):
    """Tune one hyperparameter of each method on validation images, then compare the methods on the test split.

    Args:
        budget: Values that are tried for each method.
        holdout: Share of the training images of each class that validates where the benchmark has no split val; the
            final runs learn from all training images.
        grid: YAML file with other values to try, such as `ewc: {lambda: [1, 10, 100]}`, best guess first.
    """

    budget: Count = 5
    holdout: Annotated[float, Gt(0), Lt(1)] = 0.2
    grid: Path | None = None


def check_sweep(config: SweepConfig) -> Plan:
    """The plan of a sweep. Raises KcError for what cannot work, before torch or any data is loaded."""
    if config.devices > 1:
        raise KcError(f"--devices {config.devices}: a sweep runs in one process; use the chosen values with kc run")
    manifest = load_manifest(config.benchmark)
    if "test" not in manifest.splits or "train" not in manifest.splits:
        raise KcError(f"a sweep needs the splits train and test; {manifest.name} has {', '.join(manifest.splits)}")
    given = {} if config.grid is None else read_grids(config.grid)
    plan: Plan = {}
    for name in config.method_names:
        grid = given.get(name) or default_grid(name, config, manifest.task_kind, config.budget)
        if grid is None:
            continue
        option, values = grid
        if len(values) < config.budget:
            raise KcError(f"--grid {config.grid}: {name} has {len(values)} values for --budget {config.budget}")
        plan[name] = option, values[: config.budget]
        for value in plan[name][1]:
            resolve(config.replaced(option, value))
    return plan


def around(tunable: Tunable, centre: Value, n: int) -> list[Value]:
    """`centre`, then `n` - 1 values outwards, up and down by turns; a text of several numbers moves as a whole.

    Raises KcError for a centre that factors cannot space (0, below, or a share of 1) and where `n` is too many.
    """
    name = option_name(tunable.option)
    numbers = [float(part) for part in str(centre).split(",")]
    if min(numbers) <= 0 or (tunable.odds and max(numbers) >= 1):
        raise KcError(f"{name} {centre}: no grid by factors around it; list its values in --grid")
    values: list[Value] = [centre]
    for scale in SCALES:
        moved = [_moved(tunable, number, tunable.factor**scale) for number in numbers]
        value = ",".join(f"{m:g}" for m in moved) if isinstance(centre, str) else moved[0]
        inside = min(moved) > 0 and max(moved) <= tunable.high and not (tunable.odds and max(moved) >= 1)
        if inside and value not in values:
            values.append(value)
    if len(values) < n:
        raise KcError(f"--budget {n}: {name} has {len(values)} values around {centre}; list them in --grid")
    return values[:n]


def _moved(tunable: Tunable, number: float, scale: float) -> int | float:
    if tunable.odds:
        odds = scale * number / (1 - number)
        number, scale = odds / (1 + odds), 1
    return round(number * scale) if tunable.whole else float(f"{number * scale:.3g}")


def default_grid(method: str, config: RunConfig, kind: TaskKind, n: int) -> Grid | None:
    """The hyperparameter of a method and `n` values of it, first the one that `config` has.

    None for a method with nothing to tune.
    """
    spec = method_spec(method)
    tunable = spec.tune if kind == "classification" else spec.tune_maps or spec.tune
    if tunable is None:
        return None
    own: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(spec.options)} | config.of(method)
    if tunable.option not in own:
        return option_name(tunable.option), around(tunable, getattr(config, tunable.option), n)
    centre = own[tunable.option]
    return f"{method}.{option_name(tunable.option)}", around(tunable, tunable.start if centre is None else centre, n)


def read_grids(path: Path) -> dict[str, Grid]:
    """`method: {option: [values]}` of a YAML file. Raises KcError; UnknownNameError for a name that does not exist."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KcError(f"--grid {path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, Mapping):
        raise KcError(f"--grid {path}: expected lines such as ewc: {{lambda: [1, 10, 100]}}")
    grids: dict[str, Grid] = {}
    for name, grid in content.items():
        if name not in METHODS:
            raise unknown_name("method", str(name), METHODS)
        if not isinstance(grid, Mapping) or len(grid) != 1 or not isinstance(values := next(iter(grid.values())), list):
            raise KcError(f"--grid {path}: {name}: expected one option with a list of values, not {grid}")
        grids[name] = _values(path, name, str(next(iter(grid))), values)
    return grids


def _values(path: Path, method: str, shown: str, values: list[Any]) -> Grid:
    """The option `shown` of a method, or of the run's training, and its checked values."""
    own = {option_name(f.name): f.name for f in dataclasses.fields(method_spec(method).options)}
    shared = {option_name(f.name): f.name for f in dataclasses.fields(TrainingOptions)}
    if shown not in own and shown not in shared:
        raise unknown_name(f"option of {method}", shown, [*own, *shared])
    is_own = shown in own
    kind, prefix = (method_spec(method).options, f"{method}.") if is_own else (TrainingOptions, "")
    field = own[shown] if is_own else shared[shown]
    try:
        read = [validated(kind, {field: value}, f"--{prefix}")[field] for value in values]
    except KcError as error:
        raise type(error)(f"--grid {path}: {error}") from error
    if not read or len(set(read)) < len(read) or not all(isinstance(v, int | float | str) for v in read):
        raise KcError(f"--grid {path}: {method}: {shown} needs different numbers, not {values}")
    return prefix + shown, read
