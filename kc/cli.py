"""The command line: `kc run` is the main job. Nothing heavy is imported before every name and number was checked."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from kc import __version__
from kc.checks import check
from kc.errors import KcError, nearest
from kc.heap import kept_heap
from kc.parsing import parse

COMMANDS = {
    "run": ("kc.cli:main_job", "compare methods over a stream of tasks (the main job)"),
    "sweep": (
        "kc.commands.sweep_config:main",
        "tune each method's own strength on a validation split, then compare",
    ),
    "report": ("kc.commands.report_config:main", "make the page of a run again, or compare several runs"),
    "memory": ("kc.commands.memory_config:main", "look into a memory, move it, and take rows out of it"),
    "predict": ("kc.commands.predict_config:main", "say what is on pictures, and which rows decided it"),
    "remember": ("kc.commands.remember_config:main", "teach a memory a new thing from a few pictures"),
    "forget": ("kc.commands.remember_config:main_forget", "erase a thing from a memory, with proof"),
    "serve": ("kc.commands.serve_config:main", "a local page: drop a picture, ask, teach, forget (extra `demo`)"),
    "explain": ("kc.commands.explain_config:main", "show which rows of a memory decided what an image is"),
    "votes": ("kc.commands.votes_config:main", "accuracy of every vote against k; pruning; planted label noise"),
    "visual-memory": ("kc.studies.visual_memory.config:main", "studies of the visual memory: table, figure, JSON"),
    "data": ("kc.commands.data:run_data", "list, show, fetch, check, count and preview benchmarks"),
    "fc-clip": ("kc.commands.fc_clip_config:main", "convert the published weights of FC-CLIP; train one"),
    "dense": ("kc.commands.dense_config:main", "measure and look into training-free dense CLIP"),
}
"""Command -> (`module:function` that takes the arguments and the program's name, what it does)."""


def main_job(arguments: Sequence[str], prog: str | None = None) -> int:
    """`kc run`. Returns the exit status."""
    config = parse(arguments, prog)
    check(config)
    from kc.experiment import run

    run(config)
    return 0


def program(
    job: str, arguments: Sequence[str] | None = None, prog: str | None = None, stopped: str = "stopped."
) -> int:
    """Run `module:function`, which takes the arguments and the program's name. Returns its exit status; what a user can
    act on is one message, without a traceback, and so is `stopped`.
    """
    # Read when torch loads. Threads that spin while they wait make a busy machine 25 times slower (measured: two
    # threads beside one other process), and gain nothing measurable on an idle one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module, _, function = job.partition(":")
    try:
        with kept_heap():
            main: Callable[[Sequence[str], str | None], int] = getattr(importlib.import_module(module), function)
            return main(sys.argv[1:] if arguments is None else arguments, prog)
    except KcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"stopped; {stop}" if str(stop) else stopped, file=sys.stderr)
        return 130


def execute(command: str, arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run one of COMMANDS as `program` does."""
    return program(COMMANDS[command][0], arguments, prog)


def run_main(arguments: Sequence[str] | None = None) -> int:
    """The main job as a program of its own: `python experiments/continual.py`."""
    return execute("run", arguments)


def sweep_main(arguments: Sequence[str] | None = None) -> int:
    """The sweep as a program of its own: `python experiments/sweep.py`."""
    return execute("sweep", arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console command `kc`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        return execute(given[0], given[1:], f"kc {given[0]}")
    if given == ["--version"]:
        print(__version__)
        return 0
    asked = not given or given[0] in ("-h", "--help")
    width = max(map(len, COMMANDS))
    lines = (f"  {name:<{width}} {about}" for name, (_, about) in COMMANDS.items())
    text = "usage: kc COMMAND [options]\n\n" + "\n".join(lines)
    print(text + "\n\n`kc COMMAND --help` shows the options.", file=sys.stdout if asked else sys.stderr)
    if asked:
        return 0
    close = nearest(given[0], COMMANDS)
    print(f"error: unknown command {given[0]!r}" + (f"; did you mean {close[0]}?" if close else ""), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
