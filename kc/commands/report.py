"""`kc report`: the page of finished runs, their comparison as a table, their figures for a paper."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from kc.commands.report_config import ReportConfig
from kc.report.combine import combine, open_runs
from kc.report.export import latex, table_csv
from kc.report.figures import paper
from kc.report.html import write_page
from kc.report.records import Results
from kc.report.tables import markdown

TABLES: dict[str, Callable[[Results], str]] = {"latex": latex, "markdown": markdown, "csv": table_csv}


def run_report(config: ReportConfig) -> int:
    """Write and print what was asked for. Raises RunError or DataError for runs that cannot be read or compared."""
    runs = open_runs(config.runs)
    comparison = combine(runs)
    if config.table is not None:
        print(TABLES[config.table](comparison.results), end="")
    path = config.out
    # What is printed beside a table goes to standard error, so that the table can be sent to a file.
    console = sys.stdout if config.table is None else sys.stderr
    if config.figures is not None:
        print(f"figures: {len(paper(comparison.results, config.figures))} in {config.figures}", file=console)
    if config.wandb is not None:
        from kc.report.wandb_report import build, send

        entity, _, project = config.wandb.partition("/")
        print(f"W&B report: {send(build(runs, comparison.results, entity, project))}", file=console)
    if path is None and (config.table or config.figures or config.wandb) is not None:
        return 0
    if path is None:
        path = runs[0].folder / "report.html" if len(runs) == 1 else Path("comparison.html")
    write_page(comparison, path, max_examples=config.max_examples)
    print(f"report: {path}", file=console)
    return 0
