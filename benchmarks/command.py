"""Starts a benchmark as a command of kc is started: a function of a typed config."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from kc import actions
from kc.errors import KcError


def start(run: Callable[..., int], name: str) -> NoReturn:
    """Run `python -m benchmarks.NAME`: `run(config)` with what the command line says. Ends the process."""
    try:
        kind = actions.config_of(run)
        assert kind is not None
        config = actions.read(kind, sys.argv[1:], f"python -m benchmarks.{name}")
        sys.exit(0 if config is None else run(config))
    except KcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
