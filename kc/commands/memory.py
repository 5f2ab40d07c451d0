"""`kc memory`: its actions, and what they share: which memory and rows are meant, and how rows are shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kc import actions
from kc.errors import KcError, UnknownNameError, unknown_name
from kc.memory.store.inputs import MOST_TASK
from kc.types import Int64Array

if TYPE_CHECKING:
    from kc.commands.console import Terminal
    from kc.memory.base import MemoryStore
    from kc.memory.disk import Memory
    from kc.memory.store.table import RowTable

ACTIONS: actions.Table = {
    "stats": ("kc.commands.memory_look:stats", "rows, classes, tasks, size on disk, and how it is searched"),
    "versions": ("kc.commands.memory_look:versions", "the memory after each task"),
    "diff": ("kc.commands.memory_look:diff", "rows that were added, retired, relabelled, reweighted since a task"),
    "search": ("kc.commands.memory_look:search", "the nearest rows of an image (kc explain: and how they vote)"),
    "verify": ("kc.commands.memory_check:verify", "check every file; prove that rows are gone"),
    "repair": ("kc.commands.memory_check:repair", "remove files that nothing names"),
    "build": ("kc.commands.memory_build:build", "fill a memory from a benchmark, or from images and a list of names"),
    "import": ("kc.commands.memory_check:import_", "add the rows of a .npz or .parquet file"),
    "export": ("kc.commands.memory_check:export", "write the rows to a .npz or .parquet file"),
    "migrate": ("kc.commands.memory_migrate:migrate", "a new memory with the keys of another encoder"),
    "snapshot": ("kc.commands.memory_edit:snapshot", "name the present state as the version of a task"),
    "reweight": ("kc.commands.memory_edit:reweight", "give rows a weight, by hand or by pruning"),
    "remove": ("kc.commands.memory_edit:remove", "retire rows; old versions keep them (kc forget: from all versions)"),
    "compact": ("kc.commands.memory_edit:compact", "join segments and drop what is retired"),
}


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """A memory.

    Args:
        memory: Folder of the memory; that of a run is RUN/methods/knn-s0/memory.
    """

    memory: Path


@dataclass(frozen=True, kw_only=True)
class NamedConfig(MemoryConfig):
    """A memory whose classes have names.

    Args:
        benchmark: Benchmark whose names the classes have, where the memory and its run do not say.
    """

    benchmark: str | None = None


@dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """Rows that meet every filter.

    Args:
        ids: Rows with these ids: 3,7,10-20.
        class_: Rows of these classes: names or ids, separated by commas.
        source: Rows of these sources, separated by commas.
        task: Rows that these tasks added, counted from 1, separated by commas.
        sample: Rows of these samples (images), separated by commas.
        strict: Exit with 1 where no row meets the filters.
        dry_run: Say what would change, and change nothing.
    """

    ids: str | None = None
    class_: str | None = None
    source: str | None = None
    task: str | None = None
    sample: str | None = None
    strict: bool = False
    dry_run: bool = False


SHOWN = 20
"""Rows of a table; what does not fit is counted."""
FILTERS = ("ids", "class_", "source", "task", "sample")


def class_names(memory: MemoryStore, benchmark: str | None = None) -> dict[int, str]:
    """Class id -> name: those of `benchmark`, else what the memory says."""
    if benchmark is None:
        return memory.class_names
    from kc.data.manifest import load_manifest

    return {c.id: c.name for c in load_manifest(benchmark).info}


def terminal() -> Terminal:
    """What is printed to. Imported when something is printed, so that help is shown at once."""
    from kc.commands.console import Terminal

    return Terminal()


def opened(path: Path, write: bool = False) -> Memory:
    """The memory in a folder. Raises what `Memory.open` raises."""
    from kc.memory.disk import Memory

    return Memory.open(path, write=write)


def data_root_of(memory: Path, data_root: Path | None, run: Path | None = None) -> Path | None:
    """Where the images of a memory lie: where it is given, else in the data of its run; None where neither says it."""
    from kc.config import RunConfig
    from kc.memory.copies import run_of
    from kc.parsing import read_config

    run = run or run_of(memory)
    return data_root or (None if run is None else read_config(RunConfig, run).data_root)


def listed(text: str) -> list[str]:
    """The comma-separated values of an option. KcError if there is none."""
    values = [part.strip() for part in text.split(",") if part.strip()]
    if not values:
        raise KcError(f"{text!r}: expected a value, or several separated by commas")
    return values


def id_list(text: str, below: int) -> Int64Array:
    """`3,7,10-20` as ids, ascending, each once. KcError for text that is none, or for an id from `below` on."""
    found: list[Int64Array] = []
    unknown: list[int] = []
    for part in listed(text):
        match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise KcError(f"--ids {part!r}: expected ids such as 3,7,10-20")
        first, last = int(match[1]), int(match[2] or match[1])
        unknown += range(max(first, below), min(last, max(first, below) + SHOWN) + 1)
        found.append(np.arange(first, min(last, below - 1) + 1, dtype=np.int64))
    check_known(np.array(unknown, np.uint64))
    return np.unique(np.concatenate(found))


def check_known(unknown: npt.NDArray[Any]) -> None:
    """KcError that names the ids (N,), if any, that the memory does not store."""
    if len(unknown):
        more = f" and {len(unknown) - SHOWN} or more others" if len(unknown) > SHOWN else ""
        raise KcError(f"the memory stores no row with id {', '.join(map(str, unknown[:SHOWN]))}{more}")


def whole(text: str) -> int | None:
    """A number in the digits 0 to 9, None for any other text."""
    return int(text) if re.fullmatch("[0-9]{1,19}", text) else None


def class_ids(text: str, names: Mapping[int, str]) -> list[int]:
    """Names or ids of classes as ids. UnknownNameError, with the nearest, for a name that is not among them."""
    by_name = {name: id_ for id_, name in names.items()}
    found = []
    for part in [text] if text in by_name else listed(text):
        number = whole(part)
        if part not in by_name and (number is None or number >= 2**63):
            if not names:
                raise UnknownNameError(f"class {part!r}: the memory has no names of classes; give ids or --benchmark")
            raise unknown_name("class", part, by_name)
        found.append(by_name[part] if part in by_name else int(part))
    return found


def task_index(memory: MemoryStore, text: str | int | None) -> int | None:
    """A task counted from 1 as the index of its version; None: the present. UnknownNameError lists the versions."""
    if text is None:
        return None
    known = [v.task + 1 for v in memory.versions()]
    if whole(str(text)) not in known:
        shown = ", ".join(map(str, known)) or "none"
        raise UnknownNameError(f"the memory has no version of task {text}; tasks with one: {shown}")
    return int(text) - 1


def next_task(memory: MemoryStore, task: int | None) -> int:
    """The task (from 0) of a commit: the one given, counted from 1, else one after the newest. Raises KcError."""
    newest = max((v.task for v in memory.versions()), default=-1)
    if task is None:
        return newest + 1
    if not max(newest, 0) < task <= MOST_TASK:
        raise KcError(f"--task {task}: expected a task from {max(newest, 0) + 1} on; earlier versions do not change")
    return task - 1


def selected(memory: MemoryStore, config: RowsConfig, names: Mapping[int, str], retired: bool) -> Int64Array:
    """Ids of the rows that meet every filter, ascending. KcError without a filter or for ids that are not stored."""
    if all(getattr(config, name) is None for name in FILTERS):
        raise KcError("say which rows: --ids, --class, --source, --task or --sample")
    tasks = None
    if config.task is not None:
        parts = listed(config.task)
        tasks = [(whole(part) or 0) - 1 for part in parts]
        if not all(0 <= task < MOST_TASK for task in tasks):
            raise KcError(f"--task {config.task}: expected tasks counted from 1")
    found = memory.ids(
        class_id=None if config.class_ is None else class_ids(config.class_, names),
        source=None if config.source is None else {config.source, *listed(config.source)},
        task=tasks,
        sample_id=None if config.sample is None else {config.sample, *listed(config.sample)},
        retired=retired,
    )
    if config.ids is None:
        return found
    stored = memory.ids(retired=True)
    wanted = id_list(config.ids, int(stored.max(initial=-1)) + 1)
    check_known(np.setdiff1d(wanted, stored))
    return np.intersect1d(found, wanted)


def summary_of(rows: RowTable) -> str:
    """How many rows there are, and of how many samples, sources and tasks, in words."""
    hidden = int((~rows.visible).sum())
    counts = {"sample": len(set(rows.sample_id)), "source": len(set(rows.source)), "task": len(np.unique(rows.task))}
    places = ", ".join(f"{n:,} {word}{'s' * (n != 1)}" for word, n in counts.items())
    return f"{len(rows):,} rows" + (f", {hidden:,} of them retired before" if hidden else "") + f", of {places}"


def by_class(class_id: Int64Array, task: Int64Array, names: Mapping[int, str], console: Terminal) -> None:
    """Show rows, of which the classes (N,) and tasks (N,) are given, counted by class, the largest first."""
    from rich.table import Table

    table = Table("class", "id", "rows", "tasks")
    ids, counts = np.unique(class_id, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    for i in order[:SHOWN]:
        of_class = np.unique(task[class_id == ids[i]]) + 1
        table.add_row(names.get(int(ids[i]), "–"), str(ids[i]), f"{counts[i]:,}", numbers(of_class))
    console.print(table)
    if len(ids) > SHOWN:
        rest = int(counts[order[SHOWN:]].sum())
        console.say(f"and {len(ids) - SHOWN} smaller classes with {rest:,} rows")


def name_of(class_id: int, names: Mapping[int, str]) -> str:
    """The name of a class, or its id."""
    return names.get(int(class_id), str(int(class_id)))


def first_of(words: Iterable[str]) -> str:
    """Eight words, and how many more there are."""
    found = list(words)
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")


def numbers(values: Iterable[int]) -> str:
    """Ascending numbers with runs joined, 0-3, 7; "none" without one."""
    ids = np.fromiter(values, np.int64)
    if len(ids) == 0:
        return "none"
    runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
    return first_of(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
