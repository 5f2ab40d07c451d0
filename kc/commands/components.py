"""`kc methods` and `kc components`: what can be run, with its options. Nothing is imported that needs torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from kc.actions import BY_PLACE
from kc.errors import unknown_name
from kc.registry import TABLES, Kind, method_spec, spec_of
from kc.spec import MethodSpec, NamedSpec, Spec, option_name, options_of

WIDTH = 110


@dataclass(frozen=True)
class MethodsConfig:
    """List the methods, or show one: formula, paper, what it keeps, where it can run, options.

    Args:
        name: Method to show; default: a list of all.
    """

    name: Annotated[str | None, BY_PLACE] = None


@dataclass(frozen=True)
class ComponentsConfig:
    """List encoders, proposals and open-vocabulary bases, or show one with its options.

    Args:
        name: Component to show; default: a list of all.
    """

    name: Annotated[str | None, BY_PLACE] = None


def methods(config: MethodsConfig) -> int:
    """`kc methods`. Returns the exit status; raises UnknownNameError."""
    if config.name is None:
        print("\n".join(_list("method")))
        print("\n`kc methods NAME` shows formula, paper and options.")
    else:
        print(describe(config.name, method_spec(config.name)))
    return 0


def components(config: ComponentsConfig) -> int:
    """`kc components`. Returns the exit status; raises UnknownNameError."""
    kinds: tuple[Kind, ...] = ("encoder", "proposer", "base")
    if config.name is None:
        for kind, flag in zip(kinds, ("--encoder", "--proposals", "--base"), strict=True):
            print(f"{flag}:", *_list(kind), "", sep="\n")
        print("`kc components NAME` shows options.")
        return 0
    found = [(kind, spec_of(kind, config.name)) for kind in kinds if config.name in TABLES[kind]]
    if not found:
        raise unknown_name("component", config.name, dict.fromkeys(name for kind in kinds for name in TABLES[kind]))
    print("\n\n".join(f"{kind} {describe(config.name, spec)}" for kind, spec in found))
    return 0


def _list(kind: Kind) -> list[str]:
    """One entry a spec; names that share one stand together."""
    names: dict[str, list[str]] = {}
    for name, place in TABLES[kind].items():
        names.setdefault(place, []).append(name)
    entries = []
    for own in names.values():
        spec = spec_of(kind, own[0])
        said = spec.summary
        if isinstance(spec, MethodSpec):
            said = " ".join([said, *([f"Keeps {spec.keeps}."] if spec.keeps else []), spec.paper])
        head = (spec.form if isinstance(spec, NamedSpec) and len(own) == 1 else "") or ", ".join(own)
        entries.append((head, said))
    return _entries(entries)


def _entries(entries: Sequence[tuple[str, str]]) -> list[str]:
    """Head and text of each entry in two columns; a long head has a line of its own."""
    left = min(30, max(len(head) for head, _ in entries)) + 4
    lines = []
    for head, text in entries:
        body = textwrap.wrap(text, WIDTH - left, break_on_hyphens=False) or [""]
        lines += [f"  {head:<{left - 2}}{body.pop(0)}" if len(head) < left - 3 else f"  {head}"]
        lines += [" " * left + line for line in body]
    return lines


def describe(name: str, spec: Spec) -> str:
    """Everything that a spec says, as text."""
    lines = [f"{name}: {spec.summary}"]
    facts = {"paper": spec.paper, "needs": f"pip install 'kc-continual[{spec.extra}]'" if spec.extra else ""}
    if isinstance(spec, NamedSpec):
        facts["written"] = spec.form
    if isinstance(spec, MethodSpec):
        facts |= {
            "formula": spec.formula,
            "keeps": spec.keeps,
            "kinds": ", ".join(spec.kinds),
            "streams": ", ".join((*spec.streams, *(["names"] if spec.by_name else []))),
            "base": "" if spec.base == "unused" else spec.base,
            "reads images": "again when a task has been learned or in later tasks" if spec.second_pass else "once",
            "exemplars": "stores training images, up to --exemplars" if spec.exemplars else "",
            "a sweep tunes": "" if spec.tune is None else option_name(spec.tune.option),
        }
    lines += _entries([(title, fact) for title, fact in facts.items() if fact])
    if options := options_of(spec.options):
        shown = [(o, "" if o.default is None else f"; default: {o.default}") for o in options]
        entries = [(f"--{name}.{o.name}", f"{o.help.rstrip('.')} ({o.range}{default})") for o, default in shown]
        lines += ["options:", *_entries(entries)]
    return "\n".join(lines)
