"""`kc sweep`: its options and its plan, the values to try for each method. Checked before torch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Gt, Lt

from kc.commands.grids import Grid, default_grid, read_grids
from kc.config import RunConfig
from kc.data.manifest import load_manifest
from kc.errors import KcError
from kc.parsing import parse_as
from kc.resolve import resolve
from kc.spec import Count

Plan = dict[str, Grid]
"""Method -> its grid; methods without a hyperparameter to tune are not in it."""


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


def main(arguments: Sequence[str], prog: str = "kc sweep") -> int:
    """Check every option, then tune and compare. Returns the exit status."""
    config = parse_as(SweepConfig, prog, arguments)
    plan = check_sweep(config)
    from kc.commands.sweep_trials import sweep

    sweep(config, plan)
    return 0
