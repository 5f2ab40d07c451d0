"""`kc memory export` and `import`: rows in files of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kc.commands.rows import MemoryConfig, task_index
from kc.errors import KcError
from kc.spec import Count

if TYPE_CHECKING:
    from kc.memory.store.exchange import Header


@dataclass(frozen=True, kw_only=True)
class ExportConfig(MemoryConfig):
    """Write the rows to a file.

    Args:
        file: The .npz or .parquet file to write.
        at: The memory as it was after this task, counted from 1; default: the present.
        dry_run: Say what would be written, and write nothing.
    """

    file: Path
    at: Count | None = None
    dry_run: bool = False


def export(config: ExportConfig) -> int:
    """`kc memory export`. Returns the exit status."""
    from kc.commands.console import Terminal
    from kc.memory.disk import Memory

    console, memory, path = Terminal(), Memory.open(config.memory), config.file
    at = None if config.at is None else task_index(memory, config.at)
    if config.dry_run:
        console.say(f"would write {len(memory.labels(at).id):,} rows to {path}")
        return 0
    try:
        n_rows = memory.export(path, at)
    except ValueError as error:
        raise KcError(str(error)) from error
    size = path.stat().st_size / 2**20
    console.say(f"written: {path}, {n_rows:,} rows, {size:.1f} MiB")
    console.say("no later erase reaches that file")
    return 0


@dataclass(frozen=True, kw_only=True)
class ImportConfig(MemoryConfig):
    """Add the rows of a file; a new memory is made where there is none.

    Args:
        file: The .npz or .parquet file to read.
        dry_run: Say what would be added, and change nothing.
    """

    file: Path
    dry_run: bool = False


def import_(config: ImportConfig) -> int:
    """`kc memory import`. Returns the exit status."""
    from kc.commands.console import Terminal
    from kc.memory.disk import Memory

    console, path = Terminal(), config.file
    header, tables = read(path)
    exists = (config.memory / "MANIFEST").exists()
    if not exists:
        if not config.dry_run:
            Memory.create_from(config.memory, path).close()
        done = "would make" if config.dry_run else "made"
        console.say(f"{done} {config.memory} of {header.rows:,} rows")
        return 0
    with Memory.open(config.memory, write=True) as memory:
        before = len(memory)
        try:
            n_new = memory.import_rows(path)
        except ValueError as error:
            raise KcError(str(error)) from error
        tasks = [v.task for v in memory.versions()] + [int(t.task.max()) for t in tables if len(t)]
        if not config.dry_run and n_new:
            memory.commit(max(tasks))
        done = "would add" if config.dry_run else "added"
        console.say(f"{done} {n_new:,} of {header.rows:,} rows; the others were there already")
        console.say(f"rows: {before:,} before, {before + n_new:,} after")
    return 0


def read(path: Path) -> tuple[Header, Sequence[Any]]:
    """The tables of an exported file. Raises KcError for one that cannot be read."""
    from kc.memory.store import exchange

    try:
        return exchange.read(path)
    except ValueError as error:
        raise KcError(str(error)) from error
