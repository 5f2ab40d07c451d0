"""`kc sweep`: tune one hyperparameter of each method on validation images, then compare the methods."""

from __future__ import annotations

from collections.abc import Sequence

from kc.commands.sweep_plan import SweepConfig, check_sweep
from kc.parsing import parse_as


def main(arguments: Sequence[str], prog: str) -> int:
    """Check every option, then tune and compare. Returns the exit status."""
    config = parse_as(SweepConfig, prog, arguments)
    plan = check_sweep(config)
    from kc.commands.sweep_trials import sweep

    sweep(config, plan)
    return 0
