"""Command line -> typed config: flags, help and types come from the fields and docstrings of a dataclass."""

from __future__ import annotations

import dataclasses
import keyword
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from kc.config import RunConfig
from kc.errors import KcError, RunError, UnknownNameError, nearest
from kc.methods.config import MethodOptions

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Config = TypeVar("Config", bound=RunConfig)

NOT_STORED = ("resume", "out", "accelerator", "devices", "num_workers", "wandb", "wandb_project", "wandb_entity")
"""Flags that may be given together with --resume: they do not change the numbers."""
PATHS = ("data_root", "names", "strengths")
"""Flags that name a folder or file to read (a sweep has the last)."""


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
    types = get_type_hints(config)
    shared = {field.name for field in dataclasses.fields(MethodOptions)} if issubclass(config, RunConfig) else set()
    of_methods = result.add_argument_group("knobs of the methods; each reads its own") if shared else result
    for field in dataclasses.fields(config):
        if field.name in positional:
            needed = field.default is dataclasses.MISSING
            by_place: dict[str, Any] = {} if needed else {"nargs": "?", "default": field.default}
            result.add_argument(field.name, type=types[field.name], help=help_of[field.name], **by_place)
            continue
        if field.default is dataclasses.MISSING:  # what a command is about stands without a flag
            result.add_argument(field.name, nargs="+", type=Path, help=help_of[field.name])
            continue
        group = of_methods if field.name in shared else result
        # A switch is named to be set: `--anonymous`, not `--anonymous true`.
        kind: dict[str, Any] = {"action": "store_true"} if types[field.name] is bool else {"type": types[field.name]}
        group.add_argument(option(field.name), default=field.default, help=help_of[field.name], **kind)
    return result


def option(field: str) -> str:
    """The flag of a config field: `data_root` -> `--data-root`, `class_` -> `--class`."""
    return "--" + field.removesuffix("_").replace("_", "-")


def parse(arguments: Sequence[str], prog: str | None = None) -> RunConfig:
    """Command line of `kc run` -> config: see `parse_as`."""
    return parse_as(RunConfig, parser(prog), arguments)


def parse_as(kind: type[Config], p: ArgumentParser, arguments: Sequence[str]) -> Config:
    """Command line -> config of the `kind` that parser `p` was made from.

    With --resume, the config is the one stored in the run folder. Raises UnknownNameError for an option that does not
    exist, KcError for a value of the wrong type.
    """
    config = anchored(kind(**values_of(p, arguments)))
    return config if config.resume is None else resumed(config)


def values_of(p: ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Value of each field of the config that parser `p` was made from. Raises as `parse` does."""
    from jsonargparse import ArgumentError

    known = [a for action in p._actions for a in action.option_strings]
    given = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--") and not name.startswith("--print_"):
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
    import yaml

    assert config.resume is not None
    path = config.resume / "config.yaml"
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"{config.resume} cannot be resumed: {path} cannot be read ({error})") from error
    if not isinstance(stored, dict) or set(stored) - {f.name for f in dataclasses.fields(config)}:
        raise RunError(f"{path} is not the config of a run of this version")
    default = type(config)()
    changed = [
        f.name
        for f in dataclasses.fields(config)
        if f.name not in NOT_STORED
        and getattr(config, f.name) != getattr(default, f.name)
        and str(getattr(config, f.name)) != str(stored.get(f.name))
    ]
    if changed:
        flags = ", ".join(option(name) for name in changed)
        raise RunError(f"--resume takes its settings from {path}; {flags} would change them: start a new run instead")
    kept = {name: getattr(config, name) for name in NOT_STORED}
    values = {k: Path(v) if k in PATHS and v is not None else v for k, v in stored.items()}
    return type(config)(**{**values, **kept})
