"""What every study is: options, rows that are computed once, and a figure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from rich.console import Console

from kc import __version__
from kc.data.manifest import load_manifest
from kc.errors import KcError
from kc.studies.options import StudyOptions, StudySpec
from kc.studies.record import Record, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Options = TypeVar("Options", bound=StudyOptions)
NOT_STORED = ("out", "data_root", "published")
"""Options that do not change the numbers."""


class Study(ABC, Generic[Options]):
    """One study with its options. A class of its own in `kc/studies/NAME.py`, one line in `kc.registry.STUDIES`."""

    spec: ClassVar[StudySpec]

    def __init__(self, name: str, options: Options, console: Console) -> None:
        self.name = name
        self.console = console
        self.options = options

    @property
    def of(self) -> str:
        """Name of the benchmark, or of both."""
        return load_manifest(self.options.benchmark).name

    @abstractmethod
    def run(self) -> Figure:
        """Compute the rows that are missing, and draw all of them."""

    def fingerprints(self) -> dict[str, str]:
        """What made the numbers, such as the encoder's fingerprint: a record made with another is refused."""
        return {}

    @cached_property
    def record(self) -> Record:
        """Rows and files; opened at first use, when the options were checked."""
        options = self.options
        settings = {k: v for k, v in vars(options).items() if k not in NOT_STORED} | {"version": __version__}
        return Record(options.out / self.of, self.name, settings, self.fingerprints())

    @property
    def rows(self) -> list[Row]:
        """The rows so far."""
        return self.record.rows

    def row(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> Row:
        """The row `key`, computed where it is not stored; see `Record.row`."""
        return self.record.row(key, compute)


def numbers(name: str, text: str) -> tuple[float, ...]:
    """The comma-separated numbers of option `name`. KcError for what is none."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise KcError(f"--{name} {text}: expected numbers separated by commas") from error


def whole_numbers(name: str, text: str, least: int = 1) -> tuple[int, ...]:
    """The comma-separated whole numbers of option `name`, each once, in order. KcError for one below `least`."""
    values = numbers(name, text)
    if not all(v >= least and v % 1 == 0 for v in values):
        raise KcError(f"--{name} {text}: expected whole numbers of at least {least}")
    return tuple(dict.fromkeys(int(v) for v in values))
