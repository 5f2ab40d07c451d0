"""What a sweep is asked to do, and its plan: which values are tried of which knob. Checked before torch is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kc.commands.grids import Value, default_grid
from kc.config import RunConfig
from kc.data.manifest import Manifest, load_manifest
from kc.errors import KcError, unknown_name
from kc.methods.training_options import TrainingOptions
from kc.parsing import parse_as
from kc.registry import METHODS, method_spec
from kc.resolve import resolve
from kc.spec import option_name, validated

Plan = dict[str, tuple[str, list[Value]]]
"""Method -> its knob and the values to try, in order; methods without a strength are not in it."""


@dataclass(frozen=True)
class SweepConfig(RunConfig):
    """Tune each method's own strength on validation images, then compare the methods on the test split.

    Args:
        budget: Values that are tried of each method's strength; the same for all methods.
        holdout: Share of the training images of each class that validates where the benchmark has no split val; the
            final runs learn from all training images.
        strengths: YAML file with other values to try, such as `ewc: {lambda: [1, 10, 100]}`, best guess first.
    """

    budget: int = 5
    holdout: float = 0.2
    strengths: Path | None = None


def check_sweep(config: SweepConfig) -> Plan:
    """The plan of a sweep. Raises KcError for what cannot work, before torch or any data is loaded."""
    if config.budget < 1:
        raise KcError(f"--budget {config.budget}: must be at least 1")
    if not 0 < config.holdout < 1:
        raise KcError(f"--holdout {config.holdout}: must be above 0 and below 1")
    if config.devices > 1:
        raise KcError(f"--devices {config.devices}: a sweep runs in one process; use the chosen values with kc run")
    manifest = load_manifest(config.benchmark)
    if "test" not in manifest.splits or "train" not in manifest.splits:
        raise KcError(f"a sweep needs the splits train and test; {manifest.name} has {', '.join(manifest.splits)}")
    plan = planned(config, manifest)
    for knob, values in plan.values():
        for value in values:
            resolve(config.replaced(knob, value))
    return plan


def planned(config: SweepConfig, manifest: Manifest) -> Plan:
    """Knob and values of each method: from the file where it names the method, else the table's grid."""
    given = {} if config.strengths is None else read_strengths(config.strengths)
    plan: Plan = {}
    for name in config.method_names:
        grid = given.get(name) or default_grid(name, config, manifest.task_kind, config.budget)
        if grid is None:
            continue
        if len(grid[1]) < config.budget:
            raise KcError(f"{config.strengths}: {name} has {len(grid[1])} values for --budget {config.budget}")
        plan[name] = grid[0], grid[1][: config.budget]
    return plan


def read_strengths(path: Path) -> Plan:
    """`method: {knob: [values]}` of a YAML file. Raises KcError, or UnknownNameError for a name that does not exist."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KcError(f"--strengths {path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, Mapping):
        raise KcError(f"--strengths {path}: expected lines such as ewc: {{lambda: [1, 10, 100]}}")
    plan: Plan = {}
    for name, grid in content.items():
        if name not in METHODS:
            raise unknown_name("method", str(name), METHODS)
        if not isinstance(grid, Mapping) or len(grid) != 1 or not isinstance(values := next(iter(grid.values())), list):
            raise KcError(f"--strengths {path}: {name}: expected one knob with a list of values, not {grid}")
        shown = str(next(iter(grid)))
        plan[name] = _values(path, name, shown, values)
    return plan


def _values(path: Path, method: str, shown: str, values: list[Any]) -> tuple[str, list[Value]]:
    """The option `shown` of a method, or of the run's training, and its checked values."""
    own = {option_name(f.name): f.name for f in dataclasses.fields(method_spec(method).options)}
    shared = {option_name(f.name): f.name for f in dataclasses.fields(TrainingOptions)}
    if shown not in own and shown not in shared:
        raise unknown_name(f"option of {method}", shown, [*own, *shared])
    kind, field, prefix = (
        (method_spec(method).options, own[shown], f"{method}.")
        if shown in own
        else (TrainingOptions, shared[shown], "")
    )
    try:
        read = [validated(kind, {field: value}, f"--{prefix}")[field] for value in values]
    except KcError as error:
        raise type(error)(f"--strengths {path}: {error}") from error
    if not read or len(set(read)) < len(read) or not all(isinstance(v, int | float | str) for v in read):
        raise KcError(f"--strengths {path}: {method}: {shown} needs different numbers, not {values}")
    return prefix + field, read


def main(arguments: Sequence[str], prog: str | None = None) -> int:
    """`kc sweep`. Returns the exit status."""
    config = parse_as(SweepConfig, prog or "kc sweep", arguments)
    plan = check_sweep(config)
    from kc.commands.sweep import sweep

    sweep(config, plan)
    return 0
