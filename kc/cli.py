"""The command line. A command is loaded when it is asked for, and what is heavy only when its options were checked."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from kc import __version__
from kc.actions import Table, dispatch
from kc.errors import KcError, visible
from kc.process import Terminated, configure, kept_heap, stoppable

COMMANDS: Table = {
    "run": ("kc.commands.run:main", "compare methods over a stream of tasks (the main job)"),
    "methods": ("kc.commands.components:methods", "list methods; formula, paper and options of one"),
    "components": ("kc.commands.components:components", "list encoders, proposals and base models; options of one"),
    "sweep": ("kc.commands.run:sweep", "tune one hyperparameter of each method on validation images, then compare"),
    "report": ("kc.commands.report:run", "make the page of a run again, or compare several runs"),
    "memory": ("kc.commands.memory:ACTIONS", "look into a memory, check it, fill it, move it, take rows out of it"),
    "predict": ("kc.commands.predict:run", "segment or classify images, and show which rows decided"),
    "explain": ("kc.commands.explain:run", "show which rows of a memory decided what one image is"),
    "remember": ("kc.commands.remember:run", "store rows of images under a name"),
    "forget": ("kc.commands.forget:run", "erase rows from every version of a memory, with proof"),
    "serve": ("kc.commands.serve:run", "a local page over a memory: predict, add rows, erase rows (extra `demo`)"),
    "study": ("kc.commands.study:main", "studies of a memory and of a base beside it: table, figure, JSON"),
    "data": ("kc.commands.data:ACTIONS", "list, show, fetch, check, count and preview benchmarks"),
    "fc-clip": ("kc.commands.fc_clip:ACTIONS", "convert the published weights of FC-CLIP; train one"),
    "dense": ("kc.commands.dense:ACTIONS", "measure and look into training-free dense CLIP"),
}
"""Command -> what runs it, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The console command `kc`. Returns its exit status: 2 after an error, which is one line where a user can act on
    it, 130 after Ctrl-C, 143 after SIGTERM."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(__version__)
        return 0
    configure()
    status = 2
    try:
        with stoppable(), kept_heap():
            return dispatch(COMMANDS, given, "kc")
    except KcError as error:
        said = f"error: {error}"
    except UnicodeEncodeError as error:
        if sys.getfilesystemencoding() == "utf-8":
            raise
        said = f"error: {error.object!a}: this shell takes only {error.encoding} in names of files; set PYTHONUTF8=1"
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        name = max(os.fsdecode(error.filename or "").split("/"), key=len)
        said = f"error: {name[:40]}...: a file name of {len(name)} characters is longer than this file system takes"
    except KeyboardInterrupt as stop:
        said, status = f"stopped; {stop}" if str(stop) else "stopped.", 143 if isinstance(stop, Terminated) else 130
    print(visible(said), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
