"""`kc run`: compare methods over a stream of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from kc.parsing import parse


def main(arguments: Sequence[str], prog: str) -> int:
    """Check every option, then run. Returns the exit status."""
    config = parse(arguments, prog)
    from kc.compare import run

    run(config)
    return 0
