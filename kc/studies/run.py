"""Every study by its name."""

from __future__ import annotations

import importlib

from rich.console import Console
from rich.table import Table

from kc.studies.config import StudyConfig
from kc.studies.record import Study


def run_study(config: StudyConfig, console: Console | None = None) -> Study:
    """Run, or finish, one study; writes its table, figure and record and shows the table."""
    console = console or Console(markup=False)
    # Its function is `study(config, console)`: it adds the rows, then draws.
    module = importlib.import_module(f"kc.studies.{config.name.replace('-', '_')}")
    study: Study = module.study(config, console)
    files = study.table()
    show(study, console)
    for path in [*files, *(study.folder / f"{study.name}.{suffix}" for suffix in ("png", "svg"))]:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    return study


def show(study: Study, console: Console) -> None:
    """The rows as a table."""
    columns = list(dict.fromkeys(name for row in study.rows for name in row))
    table = Table(*columns)
    for row in study.rows:
        table.add_row(*(_text(row.get(name)) for name in columns))
    console.print(table)


def _text(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
