"""`kc study NAME`: studies of a memory, and of a memory beside an open-vocabulary base. Loads in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from kc import actions
from kc.commands.console import Terminal
from kc.errors import KcError
from kc.outside import linked
from kc.registry import STUDIES, spec_of
from kc.studies.options import StudySpec


def main(arguments: Sequence[str], prog: str = "kc study") -> int:
    """Run one study, or list all of them. Returns the exit status; raises KcError for what a user can act on."""
    specs = {name: cast(StudySpec, spec_of("study", name)) for name in STUDIES}
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, specs))
        lines = [f"  {name:<{width}}  {spec.summary}" for name, spec in specs.items()]
        print(f"usage: {prog} NAME [options]\n", *lines, f"\n`{prog} NAME --help` shows its options.", sep="\n")
        return 0
    name, *rest = arguments
    if name.startswith("-"):
        raise KcError(f"{name}: the name of the study comes first: {prog} NAME [options]")
    spec = specs.get(name) or cast(StudySpec, spec_of("study", name))
    if any(a in ("-h", "--help") for a in rest):
        print(spec.summary, f"Figure: {spec.plots}.", *([f"Source: {spec.paper}."] if spec.paper else []))
    options = actions.read(spec.options, rest, f"{prog} {name}")
    if options is None:
        return 0
    from kc.studies.base import run_study

    with linked(options):
        run_study(name, options, Terminal())
    return 0
