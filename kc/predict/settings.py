"""What a stored memory or run says of itself: enough to encode another image as its own were encoded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from kc.config import RunConfig, from_stored
from kc.data.manifest import load_manifest
from kc.errors import KcError, ManifestError, RunError, UnknownNameError
from kc.memory.base import MemoryStore
from kc.parsing import read_config
from kc.resolve import with_options
from kc.session import Facts
from kc.types import ClassInfo, TaskKind

CLASSES = "classes"
"""Key in the `extra` of a memory: {id: name}, the table of its names."""
SETTINGS = "settings"
"""Key in the `extra` of a memory that was made without a run: how its keys are made."""


def of_run(run: Path, method: str | None = None) -> tuple[RunConfig, Facts]:
    """Resolved config and facts of a run folder; the config is that of `method`, where it ran with its own (a sweep).

    Raises RunError where there is no config, or the benchmark is gone or no longer what the run was made on.
    """
    config = read_config(RunConfig, run)
    if (own := _own_settings(run, method)) is not None:
        config = from_stored(RunConfig, own)
    try:
        return config, Facts.of(load_manifest(config.benchmark))
    except (ManifestError, UnknownNameError) as error:
        raise RunError(f"{run} needs the benchmark it was made on: {error}") from error


def _own_settings(run: Path, method: str | None) -> dict[str, Any] | None:
    """What results.json says of one method; None before the run is finished."""
    path = run / "results.json"
    if method is None or not path.is_file():
        return None
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["methods"]
        found = next((dict(r["config"]) for r in records if r["name"] == method), None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not the results of a run ({error})") from error
    return found or None


def of_memory(memory: MemoryStore, run: Path | None = None) -> tuple[RunConfig, Facts]:
    """Config and facts of a memory: those it carries, else those of `run` or of the run that keeps it.

    The names are those of the memory itself. Raises KcError where nobody knows how its keys were made.
    """
    names = names_in(memory)
    stored = memory.extra.get(SETTINGS)
    if run is None and stored is not None:
        config, facts = from_json(stored, memory.path)
    else:
        place = memory.path.absolute()
        if run is None and place.parent.parent.name == "methods" and (place.parents[2] / "config.yaml").is_file():
            run = place.parents[2]
        if run is None:
            raise KcError(f"{memory.path} lies in no run that says how its keys were made: give --run RUN")
        method = place.parent.name.rpartition("-s")[0] if place.parent.parent.name == "methods" else None
        config, facts = of_run(run, method)
    if not names:
        return config, facts
    plain = {id_: facts.classes.get(id_, ClassInfo(id_, name)) for id_, name in names.items()}
    classes = {id_: dataclasses.replace(info, name=names[id_]) for id_, info in plain.items()}
    return config, dataclasses.replace(facts, classes=classes)


def names_in(memory: MemoryStore) -> dict[int, str]:
    """Class id -> name, as the memory keeps them; empty for one that keeps none."""
    return {int(id_): str(name) for id_, name in memory.extra.get(CLASSES, {}).items()}


def to_json(config: RunConfig, facts: Facts) -> dict[str, Any]:
    """What `from_json` reads: the settings that make keys."""
    values = {"encoder": config.encoder, "proposals": config.proposals, "keys": config.keys}
    return {**values, "kind": facts.kind, "input_size": list(facts.input_size)}


def from_json(stored: Mapping[str, Any], where: object) -> tuple[RunConfig, Facts]:
    """Raises KcError for what `to_json` did not write."""
    try:
        config = RunConfig(
            methods="knn", encoder=stored["encoder"], proposals=stored["proposals"], keys=stored["keys"], decoder="fpn"
        )
        height, width = (int(n) for n in stored["input_size"])
        if stored["kind"] not in ("classification", "semantic"):
            raise ValueError(f"kind {stored['kind']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise KcError(f"{where}: its settings cannot be read ({error})") from error
    return with_options(config), Facts("", cast(TaskKind, stored["kind"]), (height, width), {})
