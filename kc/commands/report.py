"""`kc report`: the page of finished runs, their comparison as a table, their figures for a paper."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kc.errors import KcError
from kc.spec import Whole


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Make the page of one run again, or compare several runs of one protocol.

    Args:
        runs: Folders of finished runs. Methods stand side by side; seeds of equal settings become mean and deviation.
        out: Page to write; default: report.html in the folder of the run, or comparison.html here for several runs.
            With --table, --figures or --wandb a page is written only where this is given.
        table: Print the comparison in this format.
        figures: Folder for figures as PNG and SVG, each as wide as one column and as two columns of a paper.
        wandb: ENTITY/PROJECT in which to make a W&B report of the curves of these runs (they must be synced there).
        max_examples: At most so many images with the answers of the methods on the page.
    """

    runs: list[Path]
    out: Path | None = None
    table: Literal["latex", "markdown", "csv"] | None = None
    figures: Path | None = None
    wandb: str | None = None
    max_examples: Whole = 12


def run(config: ReportConfig) -> int:
    """`kc report`. Returns the exit status. Raises RunError or DataError for runs that cannot be read or compared."""
    if config.wandb is not None and not re.fullmatch(r"[^/\s]+/[^/\s]+", config.wandb):
        raise KcError(f"--wandb {config.wandb}: expected ENTITY/PROJECT")
    from kc.report.combine import combine, open_runs
    from kc.report.figures import paper
    from kc.report.html import write_page
    from kc.report.tables import latex, markdown, table_csv

    runs = open_runs(config.runs)
    comparison = combine(runs)
    if config.table is not None:
        print({"latex": latex, "markdown": markdown, "csv": table_csv}[config.table](comparison.results), end="")
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
