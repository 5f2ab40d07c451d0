"""`kc run`: compare methods over a stream of tasks; `kc sweep`: tune one hyperparameter of each before."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kc.outside import linked
from kc.parsing import parse, parse_as
from kc.progress import now_and_then


def main(arguments: Sequence[str], prog: str) -> int:
    """Check every option, then run. Returns the exit status."""
    config = parse(arguments, prog)
    with now_and_then(lambda: print("loading PyTorch ...", file=sys.stderr, flush=True)):
        from kc.compare import run

    with linked(config):
        run(config)
    return 0


def sweep(arguments: Sequence[str], prog: str) -> int:
    """Check every option, then tune on validation images and compare. Returns the exit status."""
    from kc.commands.sweep_plan import SweepConfig, check_sweep

    config = parse_as(SweepConfig, prog, arguments)
    plan = check_sweep(config)
    from kc.commands import sweep_trials

    with linked(config):
        sweep_trials.sweep(config, plan)
    return 0
