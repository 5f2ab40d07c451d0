"""The command line. A command is loaded when it is asked for, and what is heavy only when its options were checked."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kc import __version__
from kc.actions import Table, dispatch
from kc.errors import KcError
from kc.process import configure, kept_heap

COMMANDS: Table = {
    "run": ("kc.commands.run:main", "compare methods over a stream of tasks (the main job)"),
    "methods": ("kc.commands.components:methods", "list methods; formula, paper and options of one"),
    "components": ("kc.commands.components:components", "list encoders, proposals and base models; options of one"),
    "sweep": ("kc.commands.run:sweep", "tune one hyperparameter of each method on validation images, then compare"),
    "report": ("kc.commands.report:run", "make the page of a run again, or compare several runs"),
    "memory": ("kc.commands.memory:ACTIONS", "look into a memory, check it, fill it, move it, take rows out of it"),
    "predict": ("kc.commands.predict:run", "segment or classify pictures, and show which rows decided"),
    "explain": ("kc.commands.explain:run", "show which rows of a memory decided what one image is"),
    "remember": ("kc.commands.remember:run", "store rows of images under a name"),
    "forget": ("kc.commands.forget:run", "erase rows from every version of a memory, with proof"),
    "serve": ("kc.commands.serve:run", "a local page: drop a picture, ask, teach, forget (extra `demo`)"),
    "study": ("kc.commands.study:main", "studies of a memory and of a base beside it: table, figure, JSON"),
    "data": ("kc.commands.data:ACTIONS", "list, show, fetch, check, count and preview benchmarks"),
    "fc-clip": ("kc.commands.fc_clip:ACTIONS", "convert the published weights of FC-CLIP; train one"),
    "dense": ("kc.commands.dense:ACTIONS", "measure and look into training-free dense CLIP"),
}
"""Command -> what runs it, and what it does."""


def program(
    job: str | Table, arguments: Sequence[str] | None = None, prog: str = "kc", stopped: str = "stopped."
) -> int:
    """Run `job`, a target of `kc.actions.Table`. Returns its exit status; what a user can act on is one
    message, without a traceback, and so is `stopped`."""
    configure()
    try:
        with kept_heap():
            return dispatch(job, list(sys.argv[1:] if arguments is None else arguments), prog)
    except KcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"stopped; {stop}" if str(stop) else stopped, file=sys.stderr)
        return 130


def execute(command: str, arguments: Sequence[str] | None = None) -> int:
    """Run one of COMMANDS as `program` does."""
    return program(COMMANDS[command][0], arguments, f"kc {command}")


def run_main(arguments: Sequence[str] | None = None) -> int:
    """The main job as a program of its own: `python experiments/continual.py`."""
    return execute("run", arguments)


def sweep_main(arguments: Sequence[str] | None = None) -> int:
    """The sweep as a program of its own: `python experiments/sweep.py`."""
    return execute("sweep", arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console command `kc`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(__version__)
        return 0
    return program(COMMANDS, given)


if __name__ == "__main__":
    sys.exit(main())
