"""Command line -> typed config: flags, help and types come from the fields and docstrings of a dataclass.

Options of a component are nested below its name: `--ewc.lambda 500`, in YAML `ewc: {lambda: 500}`.
"""

from __future__ import annotations

import dataclasses
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from kc.config import NOT_FLAGS, NOT_STORED, PATHS, Config, RunConfig, field_name, from_stored
from kc.errors import KcError, RunError, UnknownNameError, nearest
from kc.methods.config import MethodOptions
from kc.resolve import components, resolve
from kc.spec import options_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

NESTED = re.compile(r"--([^.=\s]+)\.([^.=\s]+)(?:=(.*))?", re.DOTALL)
"""`--COMPONENT.OPTION` or `--COMPONENT.OPTION=VALUE`."""
Nested = dict[str, dict[str, Any]]


def parser(
    prog: str | None = None,
    config: type[Any] = RunConfig,
    description: str = "Compare fine-tuning with retrieval over a stream of tasks.",
    positional: Sequence[str] = (),
) -> ArgumentParser:
    """A parser made from the typed fields and the docstrings of `config` and of what it inherits."""
    from docstring_parser import parse as parse_docstring
    from jsonargparse import ArgumentParser

    result = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    result.add_argument("--config", action="config", help="YAML file with any of the options below.")
    documented = [c.__doc__ or "" for c in config.__mro__ if dataclasses.is_dataclass(c)]
    help_of = {p.arg_name: p.description for text in documented for p in parse_docstring(text).params}
    types = get_type_hints(config, include_extras=True)
    shared = {field.name for field in dataclasses.fields(MethodOptions)} if issubclass(config, RunConfig) else set()
    of_training = result.add_argument_group("training, for methods that learn by gradient") if shared else result
    for field in dataclasses.fields(config):
        if field.name in NOT_FLAGS:
            continue
        kind = bare(types[field.name])
        if field.name in positional:
            needed = field.default is dataclasses.MISSING
            by_place: dict[str, Any] = {} if needed else {"nargs": "?", "default": field.default}
            result.add_argument(field.name, type=kind, help=help_of[field.name], **by_place)
            continue
        if field.default is dataclasses.MISSING:  # what a command is about stands without a flag
            result.add_argument(field.name, nargs="+", type=Path, help=help_of[field.name])
            continue
        group = of_training if field.name in shared else result
        # A switch is named to be set: `--anonymous`, not `--anonymous true`.
        how: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind}
        group.add_argument(option(field.name), default=field.default, help=help_of[field.name], **how)
    return result


def bare(hint: Any) -> Any:
    """A type without its range, and a choice as text: values are checked by `kc.spec.validated`, which says more."""
    if get_origin(hint) is Annotated:
        return bare(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return str
    if type(None) in get_args(hint):
        inner = [bare(a) for a in get_args(hint) if a is not type(None)]
        result = inner[0]
        for other in inner[1:]:
            result |= other
        return result | None
    return hint


def option(field: str) -> str:
    """The flag of a config field: `data_root` -> `--data-root`, `class_` -> `--class`."""
    return "--" + field.removesuffix("_").replace("_", "-")


def parse(arguments: Sequence[str], prog: str | None = None) -> RunConfig:
    """Command line of `kc run` -> resolved config: see `parse_as`."""
    return parse_as(RunConfig, prog, "Compare fine-tuning with retrieval over a stream of tasks.", arguments)


def parse_as(
    kind: type[Config],
    prog: str | None,
    description: str,
    arguments: Sequence[str],
    resolved: Callable[[Config], Config] = resolve,
) -> Config:
    """Command line -> resolved config of a command that runs methods.

    With --resume, the config is the one stored in the run folder. `--help` shows the options of the components that
    are named too; `--print-config` shows every value and where it comes from; both end with SystemExit. Raises
    UnknownNameError for an option that does not exist, KcError for a value that is wrong.
    """
    p = parser(prog, kind, description)
    if {"-h", "--help"} & {*arguments}:
        shown = [a for a in arguments if a not in ("-h", "--help")]
        print(p.format_help() + help_of_components(kind, p, shown))
        raise SystemExit(0)
    show = "--print-config" in arguments
    config = given(kind, p, [a for a in arguments if a != "--print-config"])
    config = resolved(anchored(config if config.resume is None else resumed(config)))
    if show:
        print(with_origins(config))
        raise SystemExit(0)
    return config


def given(kind: type[Config], p: ArgumentParser, arguments: Sequence[str]) -> Config:
    """The config as given, with the origin of each value; nothing is filled in or checked against anything else."""
    plain, nested, origins = split(arguments)
    values = values_of(p, plain)
    for flag in plain:
        name = field_name(flag.partition("=")[0].lstrip("-"))
        if flag.startswith("--") and name in values:
            origins[name] = "command line"
    return kind(**values, options=nested, origins=origins)


def split(arguments: Sequence[str]) -> tuple[list[str], Nested, dict[str, str]]:
    """Arguments without those of components, which are read from flags and YAML files, and origins; later ones win."""
    plain: list[str] = []
    nested: Nested = {}
    origins: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        found = NESTED.fullmatch(argument)
        if found is not None:
            owner, name, value = found[1], field_name(found[2]), found[3]
            if value is None:
                value = next(rest, None)
            if value is None or (value.startswith("--") and found[3] is None):
                raise KcError(f"{argument}: a value is missing; a switch is set by {argument} true")
            nested.setdefault(owner, {})[name] = value
            origins[f"{owner}.{name}"] = "command line"
            continue
        flag, equals, value = argument.partition("=")
        if flag == "--config":
            path = value if equals else next(rest, "")
            flat, below = read_yaml(Path(path))
            plain += ["--config", yaml.safe_dump(flat, allow_unicode=True)] if flat else []
            origins |= {field_name(str(name)): path for name in flat}
            for owner, values in below.items():
                nested.setdefault(owner, {}).update(values)
                origins |= {f"{owner}.{name}": path for name in values}
            continue
        plain.append(argument)
    return plain, nested, origins


def read_yaml(path: Path) -> tuple[dict[str, Any], Nested]:
    """Run options of a YAML file, and those of components. Raises KcError for what is neither."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KcError(f"--config {path}: cannot be read ({' '.join(str(error).split())})") from error
    if content is None:
        return {}, {}
    if not isinstance(content, dict):
        raise KcError(f"--config {path}: expected lines such as `tasks: 10` or `ewc: {{lambda: 500}}`")
    flat = {key: value for key, value in content.items() if not isinstance(value, dict)}
    nested = {str(k): {field_name(str(o)): x for o, x in v.items()} for k, v in content.items() if isinstance(v, dict)}
    return flat, nested


def help_of_components(kind: type[Config], p: ArgumentParser, arguments: Sequence[str]) -> str:
    """Help for the options of the components that are named by `arguments`; where to find others, if none is."""
    if not arguments:
        return "\nOptions of a method, encoder, base ...: kc run --methods NAME --help; kc methods lists all.\n"
    lines = []
    for owner, options in components(given(kind, p, arguments)).items():
        for o in options_of(options):
            default = "" if o.default is None else f", default: {o.default}"
            lines += [f"  --{owner}.{o.name} VALUE", f"      {o.help} ({o.range}{default})"]
    return "\noptions of what runs:\n" + "\n".join(lines) + "\n" if lines else ""


def with_origins(config: RunConfig) -> str:
    """YAML of every value, with its origin as a comment where it is not the default."""
    flat = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in NOT_FLAGS}
    lines = []
    for name, value in flat.items():
        lines.append(_line("", name, value, config.origins.get(name)))
    for owner, values in config.options.items():
        lines += [f"{owner}:"] if values else []
        lines += [_line("  ", name, value, config.origins.get(f"{owner}.{name}")) for name, value in values.items()]
    return "\n".join(lines)


def _line(indent: str, name: str, value: Any, origin: str | None) -> str:
    text = yaml.safe_dump(str(value) if isinstance(value, Path) else value, allow_unicode=True).split("\n")[0]
    shown = option(name).removeprefix("--") if indent else name
    return f"{indent}{shown}: {text}" + (f"  # {origin}" if origin else "")


def values_of(p: ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Value of each field of the config that parser `p` was made from. Raises as `parse_as` does."""
    from jsonargparse import ArgumentError

    known = [a for action in p._actions for a in action.option_strings]
    given = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--") and "\n" not in name:
            name = name.replace("_", "-")
            if name not in known:
                close = nearest(name, known)
                hint = f"did you mean {' or '.join(close)}?" if close else "see --help"
                raise UnknownNameError(f"unknown option {name}; {hint}")
        given.append(name + equals + value)
    if any(not action.option_strings for action in p._actions):
        given = by_place_first(p, given)
    try:
        values = p.parse_args(given).as_dict()
    except ArgumentError as error:
        raise KcError(" ".join(str(error).split())) from error
    values.pop("config", None)
    return {name + "_" * keyword.iskeyword(name): _plain(value) for name, value in values.items()}


def by_place_first(p: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """`arguments` with those that are given by their place in front: argparse gives up on `DIR --at 3 FILE`."""
    takes_value = {name for a in p._actions if a.nargs != 0 for name in a.option_strings}
    places, options = [], []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            places.append(argument)
            continue
        options.append(argument)
        if argument in takes_value:
            options += [value for value in [next(rest, None)] if value is not None]
    return places + options


def _plain(value: Any) -> Any:
    """jsonargparse wraps paths of its own; everything else is plain already."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return Path(str(value)) if isinstance(value, Path) else value


def anchored(config: Config) -> Config:
    """With absolute paths of manifest and data: a run may be resumed from another folder."""
    from kc.data.manifest import is_path

    benchmark = str(Path(config.benchmark).absolute()) if is_path(config.benchmark) else config.benchmark
    given = {name: getattr(config, name, None) for name in PATHS}
    return dataclasses.replace(config, benchmark=benchmark, **{k: v.absolute() for k, v in given.items() if v})


def resumed(config: Config) -> Config:
    """The stored config of `config.resume`; flags that would change its numbers are refused."""
    assert config.resume is not None
    path = config.resume / "config.yaml"
    kept = {name: getattr(config, name) for name in NOT_STORED if name not in NOT_FLAGS}
    found = dataclasses.replace(read_config(type(config), config.resume), **kept)
    now = found.options
    changed = [
        option(name)
        for name in config.origins
        if "." not in name and name not in NOT_STORED and str(getattr(config, name)) != str(getattr(found, name))
    ]
    changed += [
        f"--{owner}.{name}"
        for owner, values in config.options.items()
        for name, value in values.items()
        if str(value) != str(now.get(owner, {}).get(name))
    ]
    if changed:
        raise RunError(
            f"--resume takes its settings from {path}; {', '.join(changed)} would change them: start a new run instead"
        )
    return found


def read_config(kind: type[Config], folder: Path) -> Config:
    """The config stored in a run folder. Raises RunError where there is none, or one of another version."""
    path = folder / "config.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"{folder} is not the folder of a run: {path} cannot be read ({error})") from error
    if not isinstance(values, Mapping):
        raise RunError(f"{path}: not the settings of a run")
    try:
        return from_stored(kind, values)
    except (UnknownNameError, TypeError) as error:
        raise RunError(f"{path} is not the config of a run of this version ({error})") from error
