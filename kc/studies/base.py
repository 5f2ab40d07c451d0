"""What every study is: options, rows that are computed once, and a figure; and how one is run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from rich.console import Console
from rich.table import Table

from kc import __version__
from kc.data.manifest import load_manifest
from kc.errors import KcError, stopped
from kc.memory.vote.votes import VOTES
from kc.progress import Plain
from kc.registry import load_class
from kc.studies.options import StudyOptions, StudySpec
from kc.studies.record import Record, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Options = TypeVar("Options", bound=StudyOptions)
NOT_STORED = ("out", "data_root", "published")
"""Options that do not change the numbers."""
SHOWN = 30
"""Rows that the terminal shows; the files hold all."""


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


def run_study(name: str, options: StudyOptions, console: Console | None = None) -> Record:
    """Run, or finish, the study `name`. Raises KcError for what a user can act on, before anything is encoded."""
    console = console or Plain()
    study = load_class("study", name)(name, options, console)
    with stopped("the same command goes on after the last finished row"):
        figure = study.run()
    record: Record = study.record
    record.table()
    record.figure(figure)
    show(f"{name} on {study.of}", record.rows, console)
    for what, value in (options.published or {}).items():
        console.print(f"published: {what}: {value:g}", highlight=False)
    for path in record.written:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    return record


def show(title: str, rows: list[Row], console: Console) -> None:
    """Rows as a table; what does not fit is counted."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    shares = {"pq", "miou", "accuracy", "mean_class_accuracy"} if "miou" in columns else set()  # of regions, in [0, 1]
    units = dict.fromkeys(shares, " × 100") | (dict.fromkeys(VOTES, ", %") if {*VOTES} <= {*columns} else {})
    table = Table(*(name + units.get(name, "") for name in columns))
    for row in rows[:SHOWN]:
        table.add_row(*(_cell(row.get(name), 100 if name in shares else 1) for name in columns))
    console.print(title, highlight=False)
    console.print(table)
    if len(rows) > SHOWN:
        console.print(f"and {len(rows) - SHOWN} more rows in the files", highlight=False)


def _cell(value: Any, scale: int) -> str:
    return "–" if value is None else f"{scale * value:.4g}" if isinstance(value, float) else str(value)
