"""What every study is: options, rows that are computed once, and a figure; and how one is run.

Its record, rows as they are computed, then a table (CSV, JSON) and a figure (PNG, SVG), is a folder:
`OUT/NAME/rows.jsonl` (settings and fingerprints first, then a line a row, appended as it is computed), `NAME.csv`,
`NAME.json`, `NAME.png`, `NAME.svg`.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from kc import __version__
from kc.data.manifest import load_manifest
from kc.errors import KcError, RunError, stopped
from kc.files import csv_text, write_atomic
from kc.memory.vote.votes import VOTES
from kc.progress import Plain
from kc.registry import load_class
from kc.report.records import nan_to_null
from kc.report.style import write_figure
from kc.studies.options import StudyOptions, StudySpec
from kc.versions import versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
"""Plain JSON values by column name; None where a number does not exist."""


class Record:
    """The rows of one study, each computed once: stopped anywhere, it goes on after the last whole row.

    Args:
        out: folder that holds the folders of studies.
        name: of the study; its folder and its files are called so.
        settings: JSON values that make the numbers. A folder made with others is refused.
        fingerprints: what else made them, by what it is; likewise.

    Raises:
        RunError: the folder was made with other settings, holds a damaged record, or cannot be written.
    """

    def __init__(
        self, out: Path, name: str, settings: Mapping[str, Any], fingerprints: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.folder = out / name
        self.settings: Row = _plain({k: str(v) if isinstance(v, Path) else v for k, v in settings.items()})
        self.fingerprints = dict(fingerprints or {})
        self.written: list[Path] = []
        self._file = self.folder / "rows.jsonl"
        self._rows: dict[str, Row] = {}
        if self._file.exists():
            self._load()

    @property
    def rows(self) -> list[Row]:
        """The rows so far, in the order in which `row` was called."""
        return list(self._rows.values())

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def row(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> Row:
        """The row `key`: as it is stored, else computed now and stored before this returns.

        Values are plain after a round through JSON, so that a first run and a resumed one see the same: NaN is None,
        tuples are lists. Raises ValueError for infinity.
        """
        found = self._rows.pop(key, None)
        if found is None:
            found = _plain(compute())
            self._append({"key": key, "row": found})
        self._rows[key] = found  # the last one called for is last
        return found

    def table(self) -> list[Path]:
        """Write NAME.csv and NAME.json (settings, fingerprints, versions, rows); returns both. Columns are in the order
        in which they first occur."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        record = {
            "study": self.name, "settings": self.settings, "fingerprints": self.fingerprints, "versions": versions(),
            "rows": self.rows,
        }  # fmt: skip
        written = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        table = csv_text([columns, *([row.get(name, "") for name in columns] for row in self.rows)])
        files = {"csv": table, "json": written}
        return [self.write(f"{self.name}.{suffix}", content.encode()) for suffix, content in files.items()]

    def figure(self, figure: Figure) -> list[Path]:
        """Write NAME.png (150 dots an inch) and NAME.svg; the same figure gives the same bytes. Returns both."""
        written = [self.folder / f"{self.name}.{suffix}" for suffix in ("png", "svg")]
        for path in written:
            write_figure(figure, path)
        self.written += written
        return written

    def write(self, name: str, data: bytes) -> Path:
        """Write a file into the folder; `written` lists it."""
        path = self.folder / name
        write_atomic(path, data)
        self.written.append(path)
        return path

    def _load(self) -> None:
        *whole, torn = self._file.read_bytes().split(b"\n")
        try:
            head, *rows = [json.loads(line) for line in whole]
            made_with = {**head["settings"], **head["fingerprints"]}
            self._rows = {row["key"]: row["row"] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self._file} is not the record of a study: remove it, or choose another --out") from error
        now = {**self.settings, **self.fingerprints}
        if made_with != now:
            names = [n for n in sorted(set(made_with) | set(now)) if made_with.get(n) != now.get(n)]
            changed = [f"{n}: {made_with.get(n)} there, {now.get(n)} now" for n in names]
            how = "choose another --out, or remove it"
            raise RunError(f"{self.folder} was made with other settings ({'; '.join(changed)}): {how}")
        if torn:  # the process was stopped within this line
            write_atomic(self._file, b"".join(line + b"\n" for line in whole))

    def _append(self, content: Mapping[str, Any]) -> None:
        if not self._file.exists():
            write_atomic(self._file, _line({"settings": self.settings, "fingerprints": self.fingerprints}))
        try:
            with open(self._file, "ab") as file:
                file.write(_line(content))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{self._file} cannot be written ({error.strerror}); free space or change --out") from error


def column(rows: Sequence[Row], name: str) -> npt.NDArray[np.float64]:
    """The numbers (N,) float64 of one column; NaN where a row has none."""
    return np.array([row.get(name) for row in rows], dtype=np.float64)


def _plain(values: Mapping[str, Any]) -> Row:
    plain: Row = json.loads(json.dumps(nan_to_null(values), allow_nan=False))
    return plain


def _line(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, allow_nan=False, ensure_ascii=False) + "\n").encode()


Options = TypeVar("Options", bound=StudyOptions)
NOT_STORED = ("out", "data_root", "link_roots", "published")
"""Options that do not change the numbers."""
SHOWN = 30
"""Rows that the terminal shows; the files hold all."""


class Study(ABC, Generic[Options]):
    """One study with its options. A class of its own in `kc/studies/NAME.py`, one line in `kc.registry.STUDIES`."""

    spec: ClassVar[StudySpec]

    def __init__(self, name: str, options: Options, console: Console) -> None:
        self.name, self.options, self.console = name, options, console

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
