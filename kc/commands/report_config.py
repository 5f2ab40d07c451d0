"""What `kc report` is asked to do: the typed signature behind its command line. Loads in milliseconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kc.errors import KcError, unknown_name
from kc.parsing import parser, values_of

TABLES = ("latex", "markdown", "csv")


@dataclass
class ReportConfig:
    """Make the page of one run again, or compare several runs of one protocol.

    Args:
        runs: Folders of finished runs. Methods stand side by side; seeds of equal settings become mean and deviation.
        out: Page to write; default: report.html in the folder of the run, or comparison.html here for several runs.
            With --table, --figures or --wandb a page is written only where this is given.
        table: Print the comparison as latex, markdown or csv.
        figures: Folder for figures as PNG and SVG, each as wide as one column and as two columns of a paper.
        wandb: ENTITY/PROJECT in which to make a W&B report of the curves of these runs (they must be synced there).
        max_examples: At most so many images with the answers of the methods on the page.
    """

    runs: list[Path]
    out: Path | None = None
    table: str | None = None
    figures: Path | None = None
    wandb: str | None = None
    max_examples: int = 12


def main(arguments: Sequence[str], prog: str) -> int:
    """`kc report`. Returns the exit status."""
    p = parser(prog, ReportConfig, "Make the page of a run again, or compare several runs of one protocol.")
    config = ReportConfig(**values_of(p, arguments))
    if config.table is not None and config.table not in TABLES:
        raise unknown_name("table", config.table, TABLES)
    if config.wandb is not None and not re.fullmatch(r"[^/\s]+/[^/\s]+", config.wandb):
        raise KcError(f"--wandb {config.wandb}: expected ENTITY/PROJECT")
    if config.max_examples < 0:
        raise KcError(f"--max-examples {config.max_examples}: must not be below 0")
    from kc.commands.report import run_report

    return run_report(config)
