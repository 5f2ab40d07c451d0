"""What a method, encoder, proposer or base says of itself, and the types of its options. Loads in milliseconds.

A spec is the class attribute `spec` of the class it describes; `kc.registry.spec_of` reads it without importing the
class's module, so that names and options are checked before torch is loaded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from kc.errors import KcError, unknown_name
from kc.types import StreamKind, TaskKind

KINDS: tuple[TaskKind, ...] = ("classification", "semantic", "panoptic")
DENSE: tuple[TaskKind, ...] = ("semantic", "panoptic")

_STRICT = ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False)
_LARGEST = 2**63 - 1

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
"""A share or probability in [0, 1]."""
BelowOne = Annotated[float, Ge(0), Lt(1)]
Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """What links of folders that are read may open.

    Args:
        link_roots: Folders, separated by commas, into which links may point that leave the folder of the data: all
            below them can then be read through it; default: the environment variable KC_LINK_ROOTS.
    """

    link_roots: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataOptions(LinkOptions):
    """Where data sets lie.

    Args:
        data_root: Folder that holds the data sets; default: the environment variable KC_DATA.
    """

    data_root: Path | None = None


@dataclass(frozen=True)
class PerTask:
    """The range of an option with one value a task: a number, or several separated by commas.

    The first is that of the first task; the last one holds for all tasks that follow.
    """

    gt: float = float("-inf")
    ge: float = float("-inf")
    le: float = float("inf")
    whole: bool = False

    def check(self, value: float | str) -> float | str:
        """`value` as given. Raises ValueError for what is no number or out of range."""
        try:
            numbers = [float(part) for part in str(value).split(",")]
        except ValueError as error:
            raise ValueError("expected a number, or several separated by commas") from error
        if not all(
            math.isfinite(n) and self.gt < n and self.ge <= n <= self.le and not (self.whole and n % 1) for n in numbers
        ):
            raise ValueError(f"every value must be {self}")
        return value

    def __str__(self) -> str:
        parts = [f"above {self.gt:g}"] if self.gt > float("-inf") else []
        parts += [f"at least {self.ge:g}"] if self.ge > float("-inf") else []
        parts += [f"at most {self.le:g}"] if self.le < float("inf") else []
        return " and ".join([*parts, "whole" if self.whole else "finite"])


_POSITIVE, _WHOLE, _SIGNED = PerTask(gt=0), PerTask(ge=1, whole=True), PerTask(ge=-1, le=1)
PositivePerTask = Annotated[float | str, AfterValidator(_POSITIVE.check), _POSITIVE]
CountPerTask = Annotated[int | str, AfterValidator(_WHOLE.check), _WHOLE]
SignedPerTask = Annotated[float | str, AfterValidator(_SIGNED.check), _SIGNED]
"""Values in [-1, 1], one a task."""


def at_task(value: float | str, task: int) -> float:
    """The value of a per-task option in task `task` (from 0): the last one holds for all tasks that follow.

    Raises ValueError for what is not numbers separated by commas.
    """
    values = [float(part) for part in str(value).split(",")]
    return values[min(task, len(values) - 1)]


@dataclass(frozen=True)
class NoOptions:
    """Nothing to set."""


@dataclass(frozen=True)
class Tunable:
    """The hyperparameter that a sweep tunes, and the spacing of the values it tries: each is the one before times
    `factor`.

    `option`: one of the method's own, or a training option of the run such as `lr`. `odds`: the value is a share p in
    (0, 1) and its odds p / (1 - p) are spaced. `whole`: values are whole numbers. `high`: no value above it. `start`:
    the first value, where the option's default is None.
    """

    option: str
    factor: float = 10.0
    odds: bool = False
    whole: bool = False
    high: float = float("inf")
    start: float = 1.0


TUNE_LR = Tunable("lr", 10**0.5)
"""What is tuned for methods whose loss has no weight of its own."""


@dataclass(frozen=True)
class Spec:
    """What is said of every component.

    `summary`: one sentence. `options`: dataclass of its options. `paper`: citation. `package`, `extra`: the package it
    needs beyond the core's and the extra of kc-continual that installs it.
    """

    summary: str
    options: type[Any] = NoOptions
    paper: str = ""
    package: str = ""
    extra: str = ""


@dataclass(frozen=True)
class MethodSpec(Spec):
    """What a continual method is and can do.

    Args:
        keeps: What it stores from task to task beside the frozen encoder.
        formula: Its loss or score, in LaTeX.
        family: How it learns: gradient, memory (rows), statistics (closed form), or base (nothing is learned).
        kinds: Kinds of benchmark it can do.
        streams: Kinds of stream it can do.
        mask_classifier: It classifies masks with a network of its own.
        pixels: In segmentation it needs a map of pixels (not regions).
        second_pass: It reads training images again when a task has been learned, or in later tasks.
        exemplars: It stores training images, up to the run's `exemplars`.
        base: Open-vocabulary base model: unused, optional, or required.
        by_name: On a base model it answers for a class of which only the name is known.
        background: It looks for old classes in pixels labelled background.
        trains_encoder: It changes the encoder.
        answers_late: It can answer only when a task ends.
        tune: What a sweep tunes; None: nothing to tune.
        tune_maps: The same in segmentation, where it differs.
    """

    keeps: str = ""
    formula: str = ""
    family: Literal["gradient", "memory", "statistics", "base"] = "gradient"
    kinds: tuple[TaskKind, ...] = KINDS
    streams: tuple[StreamKind, ...] = ("class", "task", "domain", "online", "blurry", "long-tailed")
    mask_classifier: bool = False
    pixels: bool = False
    second_pass: bool = False
    exemplars: bool = False
    base: Literal["unused", "optional", "required"] = "unused"
    by_name: bool = False
    background: bool = False
    trains_encoder: bool = False
    answers_late: bool = False
    tune: Tunable | None = None
    tune_maps: Tunable | None = None


@dataclass(frozen=True)
class NamedSpec(Spec):
    """A component that is named NAME or NAME:ARGUMENT on the command line.

    `form`: how it is written, such as `timm:MODEL[@FILE]`; `argument`: pattern of what may follow `NAME:`. `check`:
    `module:function` that raises where a file, a package or an option is wrong, of a module that loads in milliseconds:
    see `kc.proposals.load` and `kc.openvocab.load` for what it is called with.
    """

    form: str = ""
    argument: str = ""
    check: str = ""


@dataclass(frozen=True)
class EncoderSpec(NamedSpec):
    """A frozen network that makes features. `kinds`: what its features serve."""

    kinds: tuple[TaskKind, ...] = KINDS


@dataclass(frozen=True)
class ProposerSpec(NamedSpec):
    """A maker of class-agnostic regions. `reads_names`: it looks for what is named."""

    reads_names: bool = False


@dataclass(frozen=True)
class BaseSpec(NamedSpec):
    """An open-vocabulary model that scores regions or images by class names."""

    kinds: tuple[TaskKind, ...] = KINDS


@dataclass(frozen=True)
class Option:
    """One option as a user sees it: name, default, help, and its range or choices in words."""

    name: str
    field: str
    default: Any
    help: str
    range: str


def options_of(kind: type[Any]) -> list[Option]:
    """The options of a dataclass, in order; help comes from the `Args:` of its docstring and of those it inherits."""
    from docstring_parser import parse

    documented = [c.__doc__ or "" for c in kind.__mro__ if dataclasses.is_dataclass(c)]
    help_of = {p.arg_name: " ".join((p.description or "").split()) for text in documented for p in parse(text).params}
    hints = get_type_hints(kind, include_extras=True)
    return [
        Option(option_name(f.name), f.name, f.default, help_of.get(f.name, ""), range_of(hints[f.name]))
        for f in dataclasses.fields(kind)
    ]


def option_name(field: str) -> str:
    """The name of a field for a user: `lambda_` -> `lambda`, `shrink_off` -> `shrink-off`."""
    return field.removesuffix("_").replace("_", "-")


def range_of(hint: Any) -> str:
    """A type in words: `above 0`, `one of samples, running`, `true or false`."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is Annotated:
        inner, *limits = get_args(hint)
        words = {Gt: ("above", "gt"), Ge: ("at least", "ge"), Le: ("at most", "le"), Lt: ("below", "lt")}
        said = [f"{words[type(m)][0]} {getattr(m, words[type(m)][1]):g}" for m in limits if type(m) in words]
        said += [f"{m}; one value, or one a task" for m in limits if isinstance(m, PerTask)]
        kind = {int: "whole, ", float: "a number, "}.get(inner, "")
        return kind + " and ".join(said) if said else range_of(inner)
    if parts := [p for p in get_args(hint) if p is not type(None)]:
        return " or ".join(dict.fromkeys(map(range_of, parts)))
    return {bool: "true or false", int: "whole number", float: "number", str: "text"}.get(hint, "path")


def validated(kind: type[Any], values: Mapping[str, Any], prefix: str = "--") -> dict[str, Any]:
    """`values` of fields of a dataclass, converted to their types.

    Raises UnknownNameError for a field that does not exist or a choice that is none, KcError for a value out of range;
    the message names the option as a user writes it, behind `prefix`.
    """
    hints = get_type_hints(kind, include_extras=True)
    fields = sorted(f.name for f in dataclasses.fields(kind))
    for name in values:
        if name not in fields:
            raise unknown_name(f"option {prefix}", option_name(name), map(option_name, fields))
    return {name: converted(hints[name], value, f"{prefix}{option_name(name)}") for name, value in values.items()}


def converted(hint: Any, value: Any, name: str) -> Any:
    """`value`, text or from YAML, as its type says; `name` is what errors call it.

    A switch is true or false, never another word or number, and a switch is no number. Raises UnknownNameError for a
    choice that is none, KcError for another type, NaN, infinity and what is out of range.
    """
    choices = [c for h in (hint, *get_args(hint)) if get_origin(h) is Literal for c in get_args(h)]
    if choices and value is not None and value not in choices:
        raise unknown_name(name, str(value), map(str, choices))
    try:
        if isinstance(value, bool) != (hint is bool) and value not in ("true", "false"):
            raise ValueError("a switch and another value")
        result = TypeAdapter(hint, config=_STRICT).validate_python(value)
        if isinstance(result, int) and abs(result) > _LARGEST:
            raise ValueError("more than 64 bits")
    except (ValidationError, ValueError) as error:
        shown = "null" if value is None else str(value)
        raise KcError(f"{name} {shown[:100]}: expected {range_of(hint)}") from error
    return result.expanduser() if isinstance(result, Path) else result
