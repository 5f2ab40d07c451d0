"""Command line of the commands that run methods -> one resolved config.

Flags, help and types come from `RunConfig`; options of a component are nested below its name: `--ewc.lambda 500`, in
YAML `ewc: {lambda: 500}`. Loads in milliseconds.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from kc import outside
from kc.actions import flag, values_of, yaml_options
from kc.config import GROUPS, MOVABLE, NOT_FLAGS, NOT_STORED, PATHS, Config, RunConfig, field_name, from_stored
from kc.errors import KcError, RunError, UnknownNameError, unknown_name
from kc.registry import METHODS, method_spec
from kc.resolve import components, resolve
from kc.spec import Option, options_of, validated

NESTED = re.compile(r"--([^.=\s]+)\.([^.=\s]+)(?:=(.*))?", re.DOTALL)
"""`--COMPONENT.OPTION` or `--COMPONENT.OPTION=VALUE`."""
Nested = dict[str, dict[str, Any]]


def parse(arguments: Sequence[str], prog: str = "kc run") -> RunConfig:
    """Command line of `kc run` -> resolved config: see `parse_as`."""
    return parse_as(RunConfig, prog, arguments)


def parse_as(
    kind: type[Config], prog: str, arguments: Sequence[str], resolved: Callable[[Config], Config] = resolve
) -> Config:
    """Command line -> resolved config of a command that runs methods.

    With --resume, the config is the one stored in the run folder. `--help` shows the options of the components that
    are named too; `--print-config` shows every value and where it comes from; both end with SystemExit. Raises
    UnknownNameError for an option that does not exist, KcError for a value that is wrong.
    """
    if {"-h", "--help"} & {*arguments}:
        print(help_text(kind, prog, [a for a in arguments if a not in ("-h", "--help")]))
        raise SystemExit(0)
    show = "--print-config" in arguments
    config = given(kind, prog, [a for a in arguments if a != "--print-config"])
    config = resolved(anchored(config if config.resume is None else resumed(config)))
    if show:
        print(with_origins(config))
        raise SystemExit(0)
    return config


def given(kind: type[Config], prog: str, arguments: Sequence[str]) -> Config:
    """The config as given, with the origin of each value; nothing is filled in or checked against anything else.

    The command line wins, wherever it stands; of several files, or of several times one flag, the last.
    """
    values: dict[str, Any] = {}
    nested: Nested = {}
    typed: Nested = {}
    origins: dict[str, str] = {}
    plain: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if found := NESTED.fullmatch(argument):
            text = found[3] if found[3] is not None else next(rest, "--")
            if text.startswith("--") and found[3] is None:
                raise KcError(f"{argument}: a value is missing; a switch is set by {argument} true")
            typed.setdefault(found[1], {})[field_name(found[2])] = text
        elif name == "--config":
            path = value if equals else next(rest, "")
            flat, below = read_yaml(kind, Path(path))
            values |= flat
            origins |= dict.fromkeys(flat, path)
            for owner, own in below.items():
                nested.setdefault(owner, {}).update(own)
                origins |= {f"{owner}.{option}": path for option in own}
        else:
            plain.append(argument)
    _check_owned(plain, prog)
    flags = values_of(kind, plain, prog)
    values |= flags
    origins |= dict.fromkeys(flags, "command line")
    for owner, own in typed.items():
        nested.setdefault(owner, {}).update(own)
        origins |= {f"{owner}.{option}": "command line" for option in own}
    return kind(**validated(kind, values), options=nested, origins=origins)


def read_yaml(kind: type[Config], path: Path) -> tuple[dict[str, Any], Nested]:
    """Run options of a YAML file, and those of components. Raises KcError for what is neither."""
    known = {f.name for f in dataclasses.fields(kind)} - {*NOT_FLAGS}
    values = yaml_options(path)
    nested = {key: value for key, value in values.items() if isinstance(value, dict)}
    flat = {key: value for key, value in values.items() if key not in nested}
    for key in flat.keys() - known:
        raise unknown_name(f"option in {path}:", key, known)
    return flat, nested


def _check_owned(arguments: Sequence[str], prog: str) -> None:
    """Raises UnknownNameError for an option that only a method has which `arguments` name: it needs its name."""
    named = [b for a, b in pairwise(arguments) if a == "--methods"]
    named += [a.partition("=")[2] for a in arguments if a.startswith("--methods=")]
    shared = {o.name for o in options_of(RunConfig)}
    for method in (m for m in ",".join(named).split(",") if m in METHODS):
        own = {o.name for o in options_of(method_spec(method).options)} - shared
        for name in (a.partition("=")[0].removeprefix("--") for a in arguments if a.startswith("--")):
            if name in own:
                raise UnknownNameError(f"unknown option --{name} of {prog}: say --{method}.{name}")


def help_text(kind: type[Config], prog: str, arguments: Sequence[str]) -> str:
    """Help of a command that runs methods, with the options of the components that `arguments` name."""
    options = {o.field: o for o in options_of(kind) if o.field not in NOT_FLAGS}
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {prog: [name for name in options if name not in grouped], **GROUPS}
    lines = [f"usage: {prog} [options] [--METHOD.OPTION VALUE ...]", "", (kind.__doc__ or "").split("\n")[0]]
    for title, names in groups.items():
        lines += ["", f"{title}:", *(line for n in names for line in _lines(options[n]))] if names else []
    files = {"--config FILE": "YAML with any of these", "--print-config": "show all values and origins"}
    lines += ["", *(f"  {name:<21} {text}" for name, text in files.items())]
    running = components(given(kind, prog, arguments)) if arguments else {}
    for owner, own in running.items():
        lines += ["", f"options of {owner}:", *(line for o in options_of(own) for line in _lines(o, f"{owner}."))]
    if not running:
        lines.append(f"Options of a method, base ...: `{prog} --methods NAME --help`, `kc methods`, `kc components`.")
    return "\n".join(lines)


def _lines(option: Option, owner: str = "") -> list[str]:
    head = f"  --{owner}{option.name}"
    shown = "" if option.default in (None, "", False) or "default" in option.help else f" [{option.default}]"
    body = textwrap.wrap(option.help.rstrip(".") + shown, 120 - 24)
    first = f"{head:<23} {body[0]}" if len(head) < 24 else head
    return [first, *(" " * 24 + line for line in (body[1:] if len(head) < 24 else body))]


def with_origins(config: RunConfig) -> str:
    """YAML of every value, with its origin as a comment where it is not the default."""
    flat = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in NOT_FLAGS}
    lines = [_line(name, value, config.origins.get(name)) for name, value in flat.items()]
    for owner, values in config.options.items():
        lines += [f"{owner}:"] if values else []
        shown = {flag(name).removeprefix("--"): (name, value) for name, value in values.items()}
        lines += [f"  {_line(s, value, config.origins.get(f'{owner}.{n}'))}" for s, (n, value) in shown.items()]
    return "\n".join(lines)


def _line(name: str, value: Any, origin: str | None) -> str:
    text = yaml.safe_dump(str(value) if isinstance(value, Path) else value, allow_unicode=True).split("\n")[0]
    return f"{name}: {text}" + (f"  # {origin}" if origin else "")


def anchored(config: Config) -> Config:
    """With absolute paths of manifest and data: a run may be resumed from another folder."""
    from kc.data.manifest import is_path

    benchmark = str(Path(config.benchmark).absolute()) if is_path(config.benchmark) else config.benchmark
    paths = {name: getattr(config, name, None) for name in PATHS}
    return dataclasses.replace(config, benchmark=benchmark, **{k: v.absolute() for k, v in paths.items() if v})


def resumed(config: Config) -> Config:
    """The stored config of `config.resume`; flags that would change its numbers are refused."""
    assert config.resume is not None
    free = {*NOT_STORED, *(name for name in MOVABLE if name in config.origins)}
    kept = {name: getattr(config, name) for name in free.difference(NOT_FLAGS)}
    found = dataclasses.replace(read_config(type(config), config.resume), **kept)
    now, was = [dict(vars(c)) for c in (config, found)]
    for values in (now, was):
        for owner, own in values.pop("options").items():
            values |= {f"{owner}.{name}": value for name, value in own.items()}
    changed = [n for n in config.origins if n not in free and str(now[n]) != str(was.get(n))]
    if changed:
        source = f"--resume takes its settings from {config.resume / 'config.yaml'}"
        raise RunError(f"{source}; {', '.join(map(flag, changed))} would change them: start a new run instead")
    return found


def read_config(kind: type[Config], folder: Path) -> Config:
    """The config stored in a run folder. Raises RunError where there is none, or one of another version."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise RunError(f"{folder} is not the folder of a run: {path} is missing")
    text = outside.read_text(path, error=RunError)
    values = outside.parse_yaml(text, str(path), error=RunError)
    if not isinstance(values, Mapping):
        raise RunError(f"{path}: not the settings of a run")
    try:
        return from_stored(kind, values, {key: f"{path}, line {n}" for key, n in outside.lines_of(text).items()})
    except KcError as error:
        raise RunError(f"not the settings of a run of this version: {error}") from error
