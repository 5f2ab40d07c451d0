"""`kc memory` repair, compact, remove and erase: actions that take something away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from kc.commands.memory_config import MemoryConfig
from kc.commands.memory_proof import proof
from kc.commands.memory_selection import class_names, selected
from kc.commands.memory_tables import by_class
from kc.memory.disk import Memory
from kc.memory.erasure import traces


def repair(config: MemoryConfig, console: Console) -> int:
    """Remove what no manifest names."""
    if config.dry_run:
        done = [f"would remove {name}" for name in Memory.open(config.memory).verify()["orphans"]]
    else:
        done = Memory.repair(config.memory)
    for sentence in done or ["nothing to repair"]:
        console.print(sentence, highlight=False, soft_wrap=True)
    return 0


def compact(config: MemoryConfig, console: Console) -> int:
    """Join segments, drop what is retired."""
    before = Memory.open(config.memory)
    segments, size = _segments(config.memory), before.stats()["bytes"]
    if config.dry_run:
        dropped = before.stats()["rows_total"] - len(before) if config.drop_history else 0
        versions = max(len(before.versions()) - 1, 0) if config.drop_history else 0
        console.print(
            f"would join up to {segments} segments, drop {dropped:,} retired rows and {versions} old versions",
            highlight=False,
            soft_wrap=True,
        )
        return 0
    with Memory.open(config.memory, write=True) as memory:
        if not memory.compact(history=not config.drop_history):
            console.print("nothing to compact")
            return 0
        now = memory.stats()
        console.print(
            f"segments: {segments} before, {_segments(config.memory)} after; "
            f"{size / 2**20:.1f} MiB before, {now['bytes'] / 2**20:.1f} MiB after; {len(memory):,} rows",
            highlight=False,
            soft_wrap=True,
        )
    return 0


def _segments(memory: Path) -> int:
    return sum(1 for _ in (memory / "segments").glob("*"))


def remove(config: MemoryConfig, console: Console) -> int:
    """Retire rows."""
    return _take_out(config, console, erase=False)


def erase(config: MemoryConfig, console: Console) -> int:
    """Retire rows, and be rid of their bytes."""
    return _take_out(config, console, erase=True)


def _take_out(config: MemoryConfig, console: Console, erase: bool) -> int:
    with Memory.open(config.memory, write=not config.dry_run) as memory:
        names = class_names(memory, config.benchmark)
        # Erasing reaches rows that were retired before.
        ids = selected(memory, config, names, retired=erase)
        if len(ids) == 0:
            console.print("no row meets the filters: nothing to do")
            return 1 if config.strict else 0
        before, rows = len(memory), memory.rows_of(ids)
        n_visible = int(rows.visible.sum())
        done = ("erased" if erase else "removed") if not config.dry_run else f"would {config.action}"
        retired = f", {len(ids) - n_visible:,} of them retired before" if n_visible < len(ids) else ""
        left = ", ".join(
            f"{n:,} {word}{'s' * (n != 1)}"
            for word, n in (
                ("sample", len(set(rows.sample_id))),
                ("source", len(set(rows.source))),
                ("task", len(np.unique(rows.task))),
            )
        )
        gone = traces(memory, ids) if erase and not config.dry_run else None
        if not config.dry_run:
            _ = memory.erase(ids) if erase else memory.remove(ids)
        console.print(f"{done} {len(ids):,} rows{retired}, of {left}", highlight=False, soft_wrap=True)
        by_class(rows.class_id, rows.task, names, console)
        console.print(f"rows: {before:,} before, {before - n_visible:,} after", highlight=False)
        if not erase:
            tense = "would still show" if config.dry_run else "still show"
            console.print(
                f"versions committed before {tense} them, and their bytes stay: kc memory erase is rid of both",
                highlight=False,
                soft_wrap=True,
            )
        return 0 if gone is None else proof(memory, gone, console)
