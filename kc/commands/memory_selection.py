"""What the words of `kc memory` stand for: classes, tasks and rows of one memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kc.commands.memory_config import MemoryConfig
from kc.data.manifest import load_manifest
from kc.errors import KcError, UnknownNameError, unknown_name
from kc.memory.base import MemoryStore
from kc.types import Int64Array

SHOWN = 20
"""Rows of a table; what does not fit is counted."""
FILTERS = ("ids", "class_", "source", "task", "sample")


def class_names(memory: MemoryStore, benchmark: str | None = None) -> dict[int, str]:
    """Class id -> name: those of `benchmark`, else what the memory says, else those of the run that made it."""
    if benchmark is None:
        stored = memory.extra.get("classes")
        if stored is not None:
            return {int(id_): str(name) for id_, name in stored.items()}
        benchmark = run_settings(memory.path).get("benchmark")
    return {} if benchmark is None else {c.id: c.name for c in load_manifest(benchmark).info}


def run_settings(memory: Path, run: Path | None = None) -> dict[str, Any]:
    """The settings of `run`, or of the run that keeps `memory` at RUN/methods/NAME/memory; empty where there is none.

    Raises KcError for a `run` without settings, and for settings that cannot be read.
    """
    place = memory.absolute()
    if run is None and place.parent.parent.name == "methods" and (place.parents[2] / "config.yaml").is_file():
        run = place.parents[2]
    if run is None:
        return {}
    path = run / "config.yaml"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise KcError(f"{path}: cannot read the settings of the run ({error})") from error
    if not isinstance(settings, dict):
        raise KcError(f"{path}: not the settings of a run")
    return settings


def listed(text: str) -> list[str]:
    """The comma-separated values of an option. KcError if there is none."""
    values = [part.strip() for part in text.split(",") if part.strip()]
    if not values:
        raise KcError(f"{text!r}: expected a value, or several separated by commas")
    return values


def id_list(text: str) -> Int64Array:
    """`3,7,10-20` as ids, ascending, each once."""
    found: list[Int64Array] = []
    for part in listed(text):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise KcError(f"--ids {part!r}: expected ids such as 3,7,10-20")
        found.append(np.arange(int(match[1]), int(match[2] or match[1]) + 1, dtype=np.int64))
    return np.unique(np.concatenate(found))


def class_ids(text: str, names: Mapping[int, str]) -> list[int]:
    """Names or ids of classes as ids. UnknownNameError, with the nearest, for a name that is not among them."""
    by_name = {name: id_ for id_, name in names.items()}
    found = []
    for part in [text] if text in by_name else listed(text):
        if part not in by_name and not part.isdigit():
            if not names:
                raise UnknownNameError(f"class {part!r}: the memory has no names of classes; give ids or --benchmark")
            raise unknown_name("class", part, by_name)
        found.append(by_name[part] if part in by_name else int(part))
    return found


def task_index(memory: MemoryStore, text: str | int) -> int:
    """A task counted from 1 as the index of its version. UnknownNameError lists the versions there are."""
    known = [v.task + 1 for v in memory.versions()]
    if not str(text).isdigit() or int(text) not in known:
        shown = ", ".join(map(str, known)) or "none"
        raise UnknownNameError(f"the memory has no version of task {text}; tasks with one: {shown}")
    return int(text) - 1


def selected(memory: MemoryStore, config: MemoryConfig, names: Mapping[int, str], retired: bool) -> Int64Array:
    """Ids of the rows that meet every filter, ascending. KcError without a filter or for ids that are not stored."""
    if all(getattr(config, name) is None for name in FILTERS):
        raise KcError("say which rows: --ids, --class, --source, --task or --sample")
    tasks = None
    if config.task is not None:
        parts = listed(config.task)
        if not all(part.isdigit() and int(part) > 0 for part in parts):
            raise KcError(f"--task {config.task}: expected tasks counted from 1")
        tasks = [int(part) - 1 for part in parts]
    found = memory.ids(
        class_id=None if config.class_ is None else class_ids(config.class_, names),
        source=None if config.source is None else {config.source, *listed(config.source)},
        task=tasks,
        sample_id=None if config.sample is None else {config.sample, *listed(config.sample)},
        retired=retired,
    )
    if config.ids is None:
        return found
    wanted = id_list(config.ids)
    unknown = np.setdiff1d(wanted, memory.ids(retired=True))
    if len(unknown):
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise KcError(f"the memory stores no row with id {', '.join(map(str, unknown[:SHOWN]))}{more}")
    return np.intersect1d(found, wanted)
