"""Run one study: open the benchmark, compute the rows that are missing, write table, figure and JSON."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from kc import __version__
from kc.data.manifest import load_manifest
from kc.encoders.load import check_encoder_name
from kc.errors import KcError, stopped, unknown_name
from kc.methods.retrieval.rerank import check_reranker_name
from kc.studies.record import Row, Study
from kc.studies.visual_memory.config import STUDIES, VisualMemoryConfig
from kc.studies.visual_memory.crossed import Crossed
from kc.studies.visual_memory.keys import Keys, Source, answers
from kc.types import Float32Array, Neighbours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 30
"""Rows that the terminal shows; the files hold all."""
OF_ONE = ("compositionality", "rerank")
"""Studies that read the images of the queries themselves, and so take them from the memory's benchmark only."""


@dataclass(frozen=True)
class Asked:
    """A study with its options read: `ks`, `seeds`, `wanted` as numbers, `encoders` as names.

    `strangers`: of unknowns, the benchmark that holds what is unknown.
    """

    config: VisualMemoryConfig
    source: Source
    study: Study
    ks: tuple[int, ...]
    seeds: tuple[int, ...]
    wanted: tuple[float, ...]
    encoders: tuple[str, ...]
    strangers: Source | None = None
    clamped: list[int] = field(default_factory=list)

    @property
    def k(self) -> int:
        """The number of neighbours where one is enough."""
        return self.ks[0]

    @property
    def knobs(self) -> dict[str, Any]:
        """Arguments of the votes."""
        return {"tau": self.config.tau, "alpha": self.config.alpha, "beta": self.config.beta}

    def clamp(self, k: int, n_rows: int) -> int:
        """At most the rows that there are; a k that is larger is said once, whatever is asked afterwards."""
        if k > n_rows and not self.clamped:
            self.source.console.print(f"k {k} is clamped to the {n_rows} rows that there are", highlight=False)
            self.clamped.append(n_rows)
        return min(k, n_rows)

    def answers(self, train: Keys, queries: Float32Array, k: int) -> Neighbours:
        """The k nearest rows of each query, exactly; see `clamp`."""
        return answers(train, queries, self.clamp(k, len(train)))


def run_study(config: VisualMemoryConfig, console: Console | None = None) -> int:
    """Do what `config` asks for. Raises KcError for what a user can act on, before anything is encoded."""
    console = console or Console(markup=False)
    asked = ask(config, console)
    job: Callable[[Asked], Figure] = importlib.import_module(f"kc.studies.visual_memory.{config.study}").run
    with stopped("the same command goes on after the last finished row"):
        figure = job(asked)
    written = [*asked.study.table(), *asked.study.figure(figure)]
    show(f"{config.study} on {asked.study.folder.parent.name}", asked.study.rows, console)
    for what, value in (config.published or {}).items():
        console.print(f"published: {what}: {value:g}", highlight=False)
    for path in written:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    return 0


def ask(config: VisualMemoryConfig, console: Console) -> Asked:
    """Check every option, then open the benchmark and the record."""
    if config.study not in STUDIES:
        raise unknown_name("study", config.study, STUDIES)
    for name in ("tau", "alpha", "beta", "dim", "size", "top"):
        if not (getattr(config, name) > 0 and math.isfinite(getattr(config, name))):
            raise KcError(f"--{name} {getattr(config, name)}: must be above 0")
    ks = whole("k", config.k, 1)
    seeds = whole("seeds", config.seeds, 0)
    wanted = numbers("wanted", config.wanted)
    if not all(0 < value < 100 for value in wanted):
        raise KcError(f"--wanted {config.wanted}: errors in per cent between 0 and 100")
    encoders = tuple(part.strip() for part in config.encoder.split(",") if part.strip())
    for name in encoders:
        check_encoder_name(name)
    if not encoders or (config.study == "migrate" and len(encoders) < 2):
        raise KcError(f"--encoder {config.encoder}: {config.study} needs {2 if config.study == 'migrate' else 1}")
    options: dict[str, Any] = {
        "data_root": config.data_root, "rows": config.rows, "limit_images": config.limit_images, "dim": config.dim,
        "console": console,
    }  # fmt: skip
    strangers = None
    if config.queries is None:
        source = Source(config.benchmark, **options)
    elif config.study in OF_ONE:
        raise KcError(f"--queries {config.queries}: {config.study} asks the memory's own benchmark only")
    elif config.study == "unknowns":
        source, strangers = Source(config.benchmark, **options), Source(config.queries, **options)
    else:
        source = Crossed(config.benchmark, config.queries, **options)
    settings = {k: v for k, v in vars(config).items() if k not in ("out", "data_root")} | {"version": __version__}
    of = source.manifest.name + (f"-{load_manifest(config.queries).name}" if config.queries else "")
    if config.study == "compositionality" and source.kind == "images":
        raise KcError(f"{of}: composed scenes need segments; take digit-scenes, for instance")
    if config.study == "rerank":
        if source.kind != "images":
            raise KcError(f"rerank reads whole images; {of} is {source.manifest.task_kind}")
        check_reranker_name(config.model)
    study = Study(config.out / of, config.study, settings)
    return Asked(config, source, study, ks, seeds, wanted, encoders, strangers)


def numbers(option: str, text: str) -> tuple[float, ...]:
    """The comma-separated numbers of an option. KcError for what is none."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise KcError(f"--{option} {text}: expected numbers separated by commas") from error


def whole(option: str, text: str, least: int) -> tuple[int, ...]:
    """The comma-separated whole numbers of an option, each once, in order."""
    values = numbers(option, text)
    if not all(v >= least and v % 1 == 0 for v in values):
        raise KcError(f"--{option} {text}: whole numbers of at least {least}")
    return tuple(dict.fromkeys(int(v) for v in values))


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
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
