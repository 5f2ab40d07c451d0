"""What a study leaves behind: rows as they are computed, then a table (CSV, JSON) and a figure (PNG, SVG).

Folder: `OUT/NAME/rows.jsonl` (settings first, then a line a row, appended as it is computed), `NAME.csv`, `NAME.json`,
`NAME.png`, `NAME.svg`.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kc.errors import RunError
from kc.files import write_atomic
from kc.report.records import nan_to_null

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
"""Plain JSON values by column name; None where a number does not exist."""

INK = "#333333"


class Study:
    """The rows of one study, each computed once: stopped anywhere, it goes on after the last whole row.

    Args:
        out: folder that holds the folders of studies.
        name: of this study; its folder and its files are called so.
        settings: JSON values that make the numbers. A folder made with others is refused.

    Raises:
        RunError: the folder was made with other settings, holds a damaged record, or cannot be written.
    """

    def __init__(self, out: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        self.folder = out / name
        self.settings: Row = _plain(settings)
        self._file = self.folder / "rows.jsonl"
        self._rows: dict[str, Row] = {}
        if self._file.exists():
            self._load()
        else:
            write_atomic(self._file, _line({"settings": self.settings}))

    @property
    def rows(self) -> list[Row]:
        """The rows so far, in the order in which they were asked for."""
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
        self._rows[key] = found  # last asked for stands last
        return found

    def table(self) -> list[Path]:
        """Write NAME.csv and NAME.json (settings and rows); returns both. Columns stand as they first occur."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        record = {"study": self.name, "settings": self.settings, "rows": self.rows}
        files = {
            "csv": text.getvalue(),
            "json": json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n",
        }
        return [self._write(suffix, content.encode()) for suffix, content in files.items()]

    def figure(self, figure: Figure) -> list[Path]:
        """Write NAME.png (150 dots an inch) and NAME.svg; the same figure gives the same bytes. Returns both."""
        import matplotlib

        written = []
        for suffix in ("png", "svg"):
            buffer = io.BytesIO()
            with matplotlib.rc_context({"svg.hashsalt": self.name}):
                figure.savefig(buffer, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
            written.append(self._write(suffix, buffer.getvalue()))
        return written

    def _write(self, suffix: str, data: bytes) -> Path:
        path = self.folder / f"{self.name}.{suffix}"
        write_atomic(path, data)
        return path

    def _load(self) -> None:
        *whole, torn = self._file.read_bytes().split(b"\n")
        try:
            head, *rows = [json.loads(line) for line in whole]
            made_with = head["settings"]
            self._rows = {row["key"]: row["row"] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self._file} is not the record of a study: remove it, or choose another --out") from error
        if made_with != self.settings:
            names = sorted(set(made_with) | set(self.settings))
            changed = [
                f"{n}: {made_with.get(n)} there, {self.settings.get(n)} now"
                for n in names
                if made_with.get(n) != self.settings.get(n)
            ]
            raise RunError(
                f"{self.folder} was made with other settings ({'; '.join(changed)}): choose another --out, or remove it"
            )
        if torn:  # the process was stopped within this line
            write_atomic(self._file, b"".join(line + b"\n" for line in whole))

    def _append(self, content: Mapping[str, Any]) -> None:
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


def panels(n: int, *, width: float = 3.6, height: float = 2.9, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A white figure of `n` panels (inches each), at most `columns` in a row, without pyplot's global state."""
    from matplotlib.figure import Figure

    across = min(n, columns)
    down = -(-n // across)
    figure = Figure(figsize=(across * width + 0.4, down * height + 0.3), layout="constrained", facecolor="white")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for ax in axes[n:]:
        ax.remove()
    return figure, axes[:n]


def dress(ax: Axes, title: str, x: str, y: str) -> None:
    """Title, names of the axes, and the plain look of the project's other figures."""
    ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    ax.set_xlabel(x, color=INK, fontsize=9)
    ax.set_ylabel(y, color=INK, fontsize=9)
    ax.grid(True, color="#e3e3e3", linewidth=0.7)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#bbbbbb")
    ax.tick_params(labelsize=8, colors=INK, length=2)


def _plain(values: Mapping[str, Any]) -> Row:
    plain: Row = json.loads(json.dumps(nan_to_null(_python(values)), allow_nan=False))
    return plain


def _python(value: Any) -> Any:
    """Dicts, lists and Python's own numbers for mappings, tuples and numpy's."""
    if isinstance(value, Mapping):
        return {k: _python(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_python(v) for v in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _line(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, allow_nan=False, ensure_ascii=False) + "\n").encode()
