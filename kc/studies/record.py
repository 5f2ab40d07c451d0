"""The record of a study: rows as they are computed, then a table (CSV, JSON) and a figure (PNG, SVG).

Folder: `OUT/NAME/rows.jsonl` (settings and fingerprints first, then a line a row, appended as it is computed),
`NAME.csv`, `NAME.json`, `NAME.png`, `NAME.svg`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kc.errors import RunError
from kc.files import csv_text, write_atomic
from kc.report.records import nan_to_null
from kc.report.style import write_figure
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
        files = {
            "csv": csv_text([columns, *([row.get(name, "") for name in columns] for row in self.rows)]),
            "json": json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n",
        }
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
            raise RunError(
                f"{self.folder} was made with other settings ({'; '.join(changed)}): choose another --out, or remove it"
            )
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
