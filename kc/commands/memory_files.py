"""`kc memory` export and import: rows in files of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from kc.commands.memory_config import MemoryConfig
from kc.commands.memory_selection import task_index
from kc.errors import KcError
from kc.memory.disk import Memory
from kc.memory.store import exchange


def export(config: MemoryConfig, console: Console) -> int:
    """Write the rows to a file."""
    memory, path = Memory.open(config.memory), Path(str(config.first))
    at = None if config.at is None else task_index(memory, config.at)
    if config.dry_run:
        console.print(f"would write {len(memory.labels(at).id):,} rows to {path}", highlight=False, soft_wrap=True)
        return 0
    try:
        n_rows = memory.export(path, at)
    except ValueError as error:
        raise KcError(str(error)) from error
    size = path.stat().st_size / 2**20
    console.print(f"written: {path}, {n_rows:,} rows, {size:.1f} MiB", highlight=False, soft_wrap=True)
    console.print("no later erase reaches that file", highlight=False)
    return 0


def import_(config: MemoryConfig, console: Console) -> int:
    """Add the rows of a file; make the memory where there is none."""
    path = Path(str(config.first))
    header, tables = read(path)
    exists = (config.memory / "MANIFEST").exists()
    if not exists:
        if not config.dry_run:
            Memory.create_from(config.memory, path).close()
        done = "would make" if config.dry_run else "made"
        console.print(f"{done} {config.memory} of {header.rows:,} rows", highlight=False, soft_wrap=True)
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
        console.print(
            f"{done} {n_new:,} of {header.rows:,} rows; the others were there already", highlight=False, soft_wrap=True
        )
        console.print(f"rows: {before:,} before, {before + n_new:,} after", highlight=False)
    return 0


def read(path: str | Path) -> tuple[exchange.Header, Sequence[Any]]:
    """The tables of an exported file. Raises KcError for one that cannot be read."""
    try:
        return exchange.read(Path(path))
    except ValueError as error:
        raise KcError(str(error)) from error
