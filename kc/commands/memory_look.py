"""`kc memory stats`, `versions`, `diff` and `search`: actions that only look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from rich.table import Table

from kc.actions import BY_PLACE
from kc.commands.console import Terminal
from kc.commands.explain import neighbour_table
from kc.commands.memory import (
    MemoryConfig,
    NamedConfig,
    by_class,
    class_names,
    data_root_of,
    first_of,
    name_of,
    numbers,
    opened,
    task_index,
)
from kc.spec import Count, DataOptions

if TYPE_CHECKING:
    from kc.memory.disk import Memory


@dataclass(frozen=True, kw_only=True)
class StatsConfig(NamedConfig):
    """Show how many rows there are, of which classes and tasks, and how they are searched.

    Args:
        at: The memory as it was after this task, counted from 1; default: the present.
    """

    at: Count | None = None


def stats(config: StatsConfig) -> int:
    """`kc memory stats`. Returns the exit status."""
    console, memory = Terminal(), opened(config.memory)
    names, facts = class_names(memory, config.benchmark), memory.stats()
    at = task_index(memory, config.at)
    labels = memory.labels(at)
    extra_rows = facts["rows_total"] - facts["rows"]
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
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


@dataclass(frozen=True, kw_only=True)
class VersionsConfig(MemoryConfig):
    """Show the memory after each task."""


def versions(config: VersionsConfig) -> int:
    """`kc memory versions`. Returns the exit status."""
    memory = opened(config.memory)
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
    Terminal().print(table)
    return 0


def _counts(memory: Memory, a: int, b: int | None) -> list[str]:
    change = memory.diff(a, b)
    return [f"{len(ids):,}" for ids in (change.added, change.retired, change.relabelled, change.reweighted)]


@dataclass(frozen=True, kw_only=True)
class DiffConfig(NamedConfig):
    """Show what changed between two tasks.

    Args:
        first: Task from which on, counted from 1.
        second: Task up to which; default: the present.
    """

    first: str
    second: Annotated[str | None, BY_PLACE] = None


def diff(config: DiffConfig) -> int:
    """`kc memory diff`. Returns the exit status."""
    console, memory = Terminal(), opened(config.memory)
    a, b = task_index(memory, config.first), task_index(memory, config.second)
    assert a is not None
    names, change = class_names(memory, config.benchmark), memory.diff(a, b)
    console.say(f"from task {a + 1} to {'now' if b is None else f'task {b + 1}'}:")
    if not change:
        console.print("nothing differs")
        return 0
    table = Table("", "rows", "classes", "ids")
    for what, ids in (("added", change.added), ("retired", change.retired), ("reweighted", change.reweighted)):
        if len(ids):
            classes = first_of(name_of(c, names) for c in np.unique(memory.rows_of(ids).class_id))
            table.add_row(what, f"{len(ids):,}", classes, numbers(ids))
    pairs = np.stack([change.class_before, change.class_after], axis=1)
    for before, after in np.unique(pairs, axis=0):
        ids = change.relabelled[(pairs == (before, after)).all(axis=1)]
        classes = f"{name_of(before, names)} to {name_of(after, names)}"
        table.add_row("relabelled", f"{len(ids):,}", classes, numbers(ids))
    console.print(table)
    return 0


@dataclass(frozen=True, kw_only=True)
class SearchConfig(NamedConfig, DataOptions):
    """Show the nearest rows of an image.

    Args:
        image: Image file, or a sample of the benchmark such as test/7; a sample that is stored does not find itself.
        point: In a memory of regions, the region at this pixel, ROW,COLUMN; default: the largest.
        k: How many rows.
        at: The memory as it was after this task, counted from 1; default: the present.
    """

    image: str
    point: str | None = None
    k: Count = 10
    at: Count | None = None


def search(config: SearchConfig) -> int:
    """`kc memory search`. Returns the exit status."""
    from kc.predict.query import read_query
    from kc.predict.query import search as nearest

    console, memory = Terminal(), opened(config.memory)
    root = data_root_of(config.memory, config.data_root)
    query = read_query(memory, config.image, config.point, config.benchmark, root)[1]
    found = nearest(memory, query, config.k, task_index(memory, config.at))
    if found.id.shape[1] < config.k:
        console.say(f"k {config.k} is clamped to the {found.id.shape[1]} rows that there are")
    console.print(neighbour_table(found, memory.rows_of(found.id[0]), class_names(memory, config.benchmark)))
    return 0
