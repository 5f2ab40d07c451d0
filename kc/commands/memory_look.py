"""`kc memory` stats, versions, diff, search and explain: actions that only look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from kc.commands.memory_config import MemoryConfig
from kc.commands.memory_selection import class_names, run_settings, task_index
from kc.commands.memory_tables import by_class, first_of, name_of, numbers, spans
from kc.errors import KcError
from kc.memory.disk import Memory


def stats(config: MemoryConfig, console: Console) -> int:
    """How many rows, of which classes and tasks, and how they are searched."""
    memory = Memory.open(config.memory)
    names, facts = class_names(memory, config.benchmark), memory.stats()
    at = None if config.at is None else task_index(memory, config.at)
    labels = memory.labels(at)
    extra_rows = facts["rows_total"] - facts["rows"]
    table = _facts()
    table.add_row("memory", str(config.memory) + ("" if at is None else f", as it was after task {config.at}"))
    table.add_row("rows", f"{len(labels.id):,}" + (f" and {extra_rows:,} retired" if extra_rows and at is None else ""))
    table.add_row("classes", str(len(np.unique(labels.class_id))))
    table.add_row("tasks", numbers(task + 1 for task in facts["versions"]))
    table.add_row("names of samples", "hashed (anonymous)" if memory.anonymous else "kept")
    table.add_row("keys", f"{facts['dim']} values of encoder {facts['fingerprint']}")
    table.add_row("on disk", f"{facts['bytes'] / 2**20:.1f} MiB")
    table.add_row("search", f"{facts['plan']}: {facts['reason']}")
    hidden = int((labels.weight == 0).sum())
    if hidden:
        table.add_row("weight 0", f"{hidden:,} rows, which no search finds")
    console.print(table)
    by_class(labels.class_id, labels.task, names, console)
    return 0


def _facts() -> Table:
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def versions(config: MemoryConfig, console: Console) -> int:
    """The memory after each task."""
    memory = Memory.open(config.memory)
    table = Table("after task", "rows", "added", "retired", "relabelled", "reweighted")
    previous: int | None = None
    for info in memory.versions():
        if previous is None:
            table.add_row(str(info.task + 1), f"{info.rows:,}", f"{info.rows:,}", "–", "–", "–")
        else:
            table.add_row(str(info.task + 1), f"{info.rows:,}", *_counts(memory, previous, info.task))
        previous = info.task
    if previous is not None and memory.diff(previous):
        table.add_row("now", f"{len(memory):,}", *_counts(memory, previous, None))
    console.print(table)
    return 0


def _counts(memory: Memory, a: int, b: int | None) -> list[str]:
    change = memory.diff(a, b)
    return [f"{len(ids):,}" for ids in (change.added, change.retired, change.relabelled, change.reweighted)]


def diff(config: MemoryConfig, console: Console) -> int:
    """What changed between two tasks."""
    memory = Memory.open(config.memory)
    if config.first is None:
        raise KcError("kc memory diff DIR TASK [TASK]: say from which task on")
    a = task_index(memory, config.first)
    b = None if config.second is None else task_index(memory, config.second)
    names, change = class_names(memory, config.benchmark), memory.diff(a, b)
    console.print(f"from task {a + 1} to {'now' if b is None else f'task {b + 1}'}:", highlight=False)
    if not change:
        console.print("nothing differs")
        return 0
    table = Table("", "rows", "classes", "ids")
    for what, ids in (("added", change.added), ("retired", change.retired), ("reweighted", change.reweighted)):
        if len(ids):
            classes = np.unique(memory.rows_of(ids).class_id)
            table.add_row(what, f"{len(ids):,}", first_of(name_of(c, names) for c in classes), spans(ids))
    pairs = np.stack([change.class_before, change.class_after], axis=1)
    for before, after in np.unique(pairs, axis=0):
        ids = change.relabelled[(pairs == (before, after)).all(axis=1)]
        table.add_row("relabelled", f"{len(ids):,}", f"{name_of(before, names)} to {name_of(after, names)}", spans(ids))
    console.print(table)
    return 0


def search(config: MemoryConfig, console: Console) -> int:
    """The nearest rows of a picture or a sample."""
    from kc.commands import explain as asking  # torch: the other actions start without it

    k = 10 if config.k is None else config.k
    if k < 1:
        raise KcError(f"--k {k}: must be at least 1")
    memory = Memory.open(config.memory)
    settings = {"benchmark": None, "encoder": None, **run_settings(config.memory), "image": config.first}
    names = ("benchmark", "data_root", "encoder", "point")
    settings |= {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    asked = asking.question(memory, settings)[1]
    found = asking.search(memory, asked, k, None if config.at is None else task_index(memory, config.at))
    if found.id.shape[1] < k:
        console.print(f"k {k} is clamped to the {found.id.shape[1]} rows that there are", highlight=False)
    console.print(asking.neighbour_table(found, memory.rows_of(found.id[0]), class_names(memory, config.benchmark)))
    return 0


def explain(config: MemoryConfig, console: Console) -> int:
    """Who votes on a picture, as `kc explain`."""
    from kc.commands.explain import run_explain  # torch, as above
    from kc.commands.explain_config import ExplainConfig

    given = {
        name: getattr(config, name) for name in ("memory", "benchmark", "data_root", "encoder", "k", "at", "point")
    }
    out = None if config.second is None else Path(config.second)
    return run_explain(ExplainConfig(str(config.first), **given, out=out), console)
