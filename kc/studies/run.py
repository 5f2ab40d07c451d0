"""Run one study: compute the rows that are missing, write table, record and figure, and show the table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from kc.errors import stopped
from kc.registry import load_class
from kc.studies.options import StudyOptions
from kc.studies.record import Record, Row

SHOWN = 30
"""Rows that the terminal shows; the files hold all."""


def run_study(name: str, options: StudyOptions, console: Console | None = None) -> Record:
    """Run, or finish, the study `name`. Raises KcError for what a user can act on, before anything is encoded."""
    console = console or Console(markup=False)
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
    table = Table(*columns)
    for row in rows[:SHOWN]:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    console.print(title, highlight=False)
    console.print(table)
    if len(rows) > SHOWN:
        console.print(f"and {len(rows) - SHOWN} more rows in the files", highlight=False)


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
