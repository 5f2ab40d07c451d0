"""What `kc memory` says about rows, in few words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from rich.console import Console
from rich.table import Table

from kc.commands.memory_selection import SHOWN
from kc.types import Int64Array


def by_class(class_id: Int64Array, task: Int64Array, names: Mapping[int, str], console: Console) -> None:
    """Show rows, of which the classes (N,) and tasks (N,) are given, counted by class, the largest first."""
    table = Table("class", "id", "rows", "tasks")
    ids, counts = np.unique(class_id, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    for i in order[:SHOWN]:
        of_class = np.unique(task[class_id == ids[i]]) + 1
        table.add_row(names.get(int(ids[i]), "–"), str(ids[i]), f"{counts[i]:,}", numbers(of_class.tolist()))
    console.print(table)
    if len(ids) > SHOWN:
        rest = int(counts[order[SHOWN:]].sum())
        console.print(f"and {len(ids) - SHOWN} smaller classes with {rest:,} rows", highlight=False)


def name_of(class_id: int, names: Mapping[int, str]) -> str:
    """The name of a class, or its id."""
    return names.get(int(class_id), str(int(class_id)))


def first_of(words: Iterable[str]) -> str:
    """Eight words, and how many more there are."""
    found = list(words)
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")


def numbers(values: Iterable[int]) -> str:
    """As `spans`, or "none"."""
    return spans(np.fromiter(values, np.int64)) or "none"


def spans(ids: Int64Array) -> str:
    """Ascending numbers with runs joined: 0-3, 7."""
    if len(ids) == 0:
        return ""
    runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
    return first_of(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
