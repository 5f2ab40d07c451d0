"""A study keeps each row it has computed, whatever stops it, and writes table, record and figure from them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from kc.errors import RunError
from kc.studies.base import Record, column, show
from kc.studies.figures import panels, style_axes


def test_a_row_is_computed_once_and_survives_a_stop(tmp_path: Path) -> None:
    calls: list[str] = []

    def compute(name: str, value: float) -> dict[str, object]:
        calls.append(name)
        return {"name": name, "score": value, "tuple": (1, np.int64(2)), "single": np.float32(0.5)}

    study = Record(tmp_path, "growth", {"k": 3})
    first = study.row("a", lambda: compute("a", math.nan))
    study.row("b", lambda: compute("b", 0.25))
    with open(tmp_path / "growth/rows.jsonl", "ab") as file:
        file.write(b'{"key": "c", "ro')  # stopped while writing
    again = Record(tmp_path, "growth", {"k": 3})
    assert again.row("a", lambda: compute("a", 1.0)) == first
    assert first == {"name": "a", "score": None, "tuple": [1, 2], "single": 0.5}
    assert "b" in again
    assert "c" not in again
    again.row("c", lambda: compute("c", 1.0))
    assert calls == ["a", "b", "c"]
    assert {row["name"] for row in Record(tmp_path, "growth", {"k": 3}).rows} == {"a", "b", "c"}


def test_table_and_record_hold_what_the_rows_say(tmp_path: Path) -> None:
    study = Record(tmp_path, "sweep", {"k": 3, "path": Path("x")}, {"encoder": "e"})
    study.row("1", lambda: {"lam": 0.1, "miou": 0.5})
    study.row("2", lambda: {"lam": 0.2, "note": "no, answer"})
    table, record = study.table()
    with open(table, newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"lam": "0.1", "miou": "0.5", "note": ""},
            {"lam": "0.2", "miou": "", "note": "no, answer"},
        ]
    content = json.loads(record.read_text())
    assert "torch" in content.pop("versions")
    assert content == {
        "study": "sweep",
        "settings": {"k": 3, "path": "x"},
        "fingerprints": {"encoder": "e"},
        "rows": [{"lam": 0.1, "miou": 0.5}, {"lam": 0.2, "note": "no, answer"}],
    }
    np.testing.assert_array_equal(column(study.rows, "miou"), [0.5, np.nan])


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    def drawn(name: str) -> list[bytes]:
        figure, axes = panels(4)
        assert len(axes) == 4
        assert len(figure.axes) == 4
        for ax in axes:
            ax.plot([1, 2], [3, 4])
            style_axes(ax, "title", "x", "y")
        return [path.read_bytes() for path in Record(tmp_path / name, "s", {}).figure(figure)]

    png, svg = drawn("1")
    assert png.startswith(b"\x89PNG")
    assert b"<svg" in svg
    assert drawn("2") == [png, svg]


def test_other_settings_and_a_damaged_record_are_refused(tmp_path: Path) -> None:
    study = Record(tmp_path, "s", {"k": 3, "tau": 1}, {"encoder": "a"})
    assert not study.folder.exists()  # nothing is written before a row is there
    study.row("a", lambda: {"x": 1})
    with pytest.raises(RunError, match=r"\(k: 3 there, 4 now\)"):
        Record(tmp_path, "s", {"k": 4, "tau": 1}, {"encoder": "a"})
    with pytest.raises(RunError, match=r"\(encoder: a there, b now\)"):
        Record(tmp_path, "s", {"k": 3, "tau": 1}, {"encoder": "b"})
    (tmp_path / "s/rows.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match="not the record of a study"):
        Record(tmp_path, "s", {"k": 3, "tau": 1}, {"encoder": "a"})


def test_infinity_is_no_value(tmp_path: Path) -> None:
    study = Record(tmp_path, "s", {})
    with pytest.raises(ValueError, match="Out of range"):
        study.row("a", lambda: {"x": math.inf})
    assert "a" not in study


def test_shares_of_regions_are_shown_times_100() -> None:
    console = Console(file=io.StringIO(), width=200)
    show("x", [{"images": 3, "miou": 0.25, "pq": 0.05921}], console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert {"pq × 100", "5.921", "miou × 100", "25"} <= {cell.strip() for cell in re.split("[│┃\n]", shown)}
