"""`kc report`: the page of finished runs, their comparison as a table, their figures for a paper."""

from __future__ import annotations

from pathlib import Path

from kc.report.combine import combine, open_runs
from kc.report.html import write_page
from kc.report_config import ReportConfig


def run_report(config: ReportConfig) -> int:
    """Write and print what was asked for. Raises RunError or DataError for runs that cannot be read or compared."""
    runs = open_runs(config.runs)
    comparison = combine(runs)
    path = config.out
    if path is None:
        path = runs[0].folder / "report.html" if len(runs) == 1 else Path("comparison.html")
    write_page(comparison, path, max_examples=config.max_examples)
    print(f"report: {path}")
    return 0
