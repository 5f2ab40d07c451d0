"""A command is a function `run(config) -> int` of a dataclass; its command line is made from the dataclass.

Fields become flags, those without a default are given by their place, the docstring's `Args:` is the help, and the
types are the ranges. Loads in milliseconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import keyword
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from kc.errors import KcError, UnknownNameError, nearest, unknown_name
from kc.outside import linked

Table = Mapping[str, tuple[str, str]]
"""Name -> (`module:attribute`, what it does). The attribute is a function of a typed `config`, a function of
`arguments` and `prog`, or another Table, whose names are actions."""
Config = TypeVar("Config")
_QUOTED = ("true", "false", "yes", "no", "on", "off", "y", "n")
FLAG, BY_PLACE = "given by its flag", "given by its place"
"""Marks of a field's type, `Annotated[Path, FLAG]`, where it is not as usual: fields without a default are given by
their place, all others by their flag."""


def dispatch(target: str | Table, arguments: Sequence[str], prog: str) -> int:
    """Run a Table or a `module:attribute` of one. Returns the exit status; raises KcError for what a user can mend."""
    if not isinstance(target, str):
        return choose(target, arguments, prog)
    module, _, attribute = target.partition(":")
    found: Any = getattr(importlib.import_module(module), attribute)
    if isinstance(found, Mapping):
        return choose(found, arguments, prog)
    kind = config_of(found)
    if kind is None:
        status: int = found(arguments, prog)
        return status
    config = read(kind, arguments, prog)
    if config is None:
        return 0
    with linked(config):
        return int(found(config))


def choose(table: Table, arguments: Sequence[str], prog: str) -> int:
    """Run the action that the first argument names; without one, or with --help, show all."""
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, table))
        lines = [f"  {name:<{width}}  {about}" for name, (_, about) in table.items()]
        what = "COMMAND" if " " not in prog else "ACTION"
        print(f"usage: {prog} {what} [options]\n", *lines, f"\n`{prog} {what} --help` shows its options.", sep="\n")
        return 0
    name = arguments[0]
    if name not in table:
        raise unknown_name(f"{'action' if ' ' in prog else 'command'} of {prog}", name, table)
    return dispatch(table[name][0], arguments[1:], f"{prog} {name}")


def config_of(function: Callable[..., int]) -> type[Any] | None:
    """The dataclass that `function` takes as `config`; None for a function of arguments."""
    return get_type_hints(function).get("config")


def read(kind: type[Config], arguments: Sequence[str], prog: str) -> Config | None:
    """Command line -> config, or None where only the help was wanted, which is shown then.

    Raises UnknownNameError for an option or a choice that does not exist, KcError for a value that is missing, of
    another type or out of range. What --config, a YAML file, says stands where no flag says otherwise.
    """
    if any(a in ("-h", "--help") for a in arguments):
        parser(kind, prog).print_help()
        return None
    given = values_of(kind, arguments, prog)
    file = given.pop("config", None)
    hints = get_type_hints(kind, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  # a dataclass
    stored = {} if file is None else yaml_options(Path(file))
    for name in stored.keys() - fields.keys():
        raise unknown_name(f"option (of {prog}, in {file})", name, fields)
    values = stored | given
    missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in values]
    if missing:
        names = ", ".join(_shown(fields[n], hints[n]) for n in missing)
        raise KcError(f"{prog} needs {names} (see `{prog} --help`)")
    return kind(**{n: checked(hints[n], value, _shown(fields[n], hints[n])) for n, value in values.items()})


def values_of(kind: type[Any], arguments: Sequence[str], prog: str) -> dict[str, Any]:
    """The text of each field that is given, and of `config`, as `read` reads it."""
    p = parser(kind, prog)
    given = vars(p.parse_intermixed_args(_checked(p, arguments)))
    return {name: value for name, value in given.items() if (name, value) != ("config", None)}


def parser(kind: type[Any], prog: str | None = None) -> argparse.ArgumentParser:
    """The parser of a config: values stay text, and what is not given is not in its result."""
    from docstring_parser import parse

    from kc.spec import options_of

    text = parse(kind.__doc__ or "")
    about = " ".join(filter(None, (text.short_description, text.long_description)))
    help_of = {option.field: option.help for option in options_of(kind)}
    result = _Parser(prog=prog, description=about, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    result.add_argument("--config", default=None, metavar="FILE", help="YAML file with any of the options below")
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.metadata.get("flag") is False:
            continue
        hint = hints[field.name]
        options: dict[str, Any] = {"help": _help(help_of[field.name], field, hint)}
        many = get_origin(_bare(hint)) in (list, tuple)
        if _is_by_place(field, hint):
            nargs = "+" if many else None if field.default is dataclasses.MISSING else "?"
            result.add_argument(field.name, nargs=nargs, metavar=_shown(field, hint), **options)
            continue
        options |= {"action": "store_true"} if hint is bool else {"metavar": _metavar(hint)}
        options |= {"action": "append"} if many else {}
        result.add_argument(flag(field.name), dest=field.name, **options)
    return result


def flag(field: str) -> str:
    """The flag of a field: `data_root` -> `--data-root`, `class_` -> `--class`."""
    from kc.spec import option_name

    return "--" + option_name(field)


def checked(hint: Any, value: Any, name: str) -> Any:
    """`value`, text or from YAML, as its type says. Raises KcError with `name`, the value and what may be given."""
    from kc.spec import converted

    bare = _bare(hint)
    if get_origin(bare) in (list, tuple) and value is not None:
        items = value if isinstance(value, list | tuple) else [value]
        return get_origin(bare)(checked(get_args(bare)[0], item, name) for item in items)
    return converted(hint if bare is not bool else bool, value, name)


def _bare(hint: Any) -> Any:
    """The type without marks and None."""
    if get_origin(hint) is Annotated and {FLAG, BY_PLACE} & {m for m in hint.__metadata__ if isinstance(m, str)}:
        hint = get_args(hint)[0]
    parts = [p for p in get_args(hint) if p is not type(None)]
    return parts[0] if get_origin(hint) in (Union, types.UnionType) and len(parts) == 1 else hint


def _is_by_place(field: dataclasses.Field[Any], hint: Any) -> bool:
    marks = hint.__metadata__ if get_origin(hint) is Annotated else ()
    return BY_PLACE in marks or (field.default is dataclasses.MISSING and FLAG not in marks)


def _shown(field: dataclasses.Field[Any], hint: Any) -> str:
    return field.name.strip("_").upper() if _is_by_place(field, hint) else flag(field.name)


def _help(text: str, field: dataclasses.Field[Any], hint: Any) -> str:
    bare = _bare(hint)
    said = [text.rstrip(".")]
    if get_origin(bare) is Literal:
        said[0] += ": " + ", ".join(map(str, get_args(bare)))
    if field.default not in (None, dataclasses.MISSING, False, ()) and "default" not in text:
        said.append(f"default: {field.default}")
    return "; ".join(said).replace("%", "%%")


def _metavar(hint: Any) -> str:
    bare = _bare(hint)
    inner = get_args(bare)[0] if get_origin(bare) is Annotated else bare
    return {int: "N", float: "X", Path: "PATH"}.get(inner, "VALUE")


def _checked(p: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """`arguments` with dashes in the names of options. Raises UnknownNameError for an option that is not there."""
    known = [name for action in p._actions for name in action.option_strings if name.startswith("--")]
    given = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--") and name != "--":
            name = name.replace("_", "-")
            if name not in known:
                hint = f"did you mean {' or '.join(close)}? " if (close := nearest(name, known)) else ""
                raise UnknownNameError(f"unknown option {name} of {p.prog}; {hint}Valid: {', '.join(sorted(known))}")
        given.append(name + equals + value)
    return given


def yaml_options(path: Path) -> dict[str, Any]:
    """Field -> value of a YAML file of options; values that are mappings are those of components, alike.

    Raises KcError for a file that cannot be read, an option said twice, in whatever spelling, and a quoted switch.
    """
    from kc.outside import parse_yaml, read_text

    where = f"--config {path}"
    content = parse_yaml(read_text(path, error=KcError), where, error=KcError)
    if content is not None and not isinstance(content, Mapping):
        raise KcError(f"{where}: expected lines such as `limit_images: 10`, or `ewc: {{lambda: 500}}`")
    return _fields(content or {}, where)


def _fields(content: Mapping[Any, Any], where: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            name, value = str(key), _fields(value, f"{where}, {key}")
        else:
            name = str(key).replace("-", "_")
            name += "_" * keyword.iskeyword(name)
        if name in values:
            raise KcError(f"{where}: {key} is said twice")
        if isinstance(value, str) and value.lower() in _QUOTED:
            raise KcError(f"{where}: {key}: {value!r} is text; a switch is true or false, without quotes")
        values[name] = value
    return values


class _Parser(argparse.ArgumentParser):
    """Says what is wrong by KcError."""

    def error(self, message: str) -> NoReturn:
        raise KcError(f"{message} (see `{self.prog} --help`)")
