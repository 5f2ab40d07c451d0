"""What a stored memory or run says of itself: enough to encode another image as its own were encoded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from kc.config import RunConfig
from kc.data.manifest import Manifest, load_manifest
from kc.errors import KcError, ManifestError, RunError, UnknownNameError
from kc.memory.base import MemoryStore
from kc.parsing import PATHS
from kc.types import ClassInfo, TaskKind

CLASSES = "classes"
"""Key in the `extra` of a memory: {id: name}, the table of its names."""
SETTINGS = "settings"
"""Key in the `extra` of a memory that was made without a run: how its keys are made."""


@dataclass(frozen=True)
class Settings:
    """How images become keys or network inputs, and what the classes are.

    `config` has the knobs (encoder, proposals, keys, k, vote ...), `input_size` (H, W) what networks see.
    """

    config: RunConfig
    kind: TaskKind
    input_size: tuple[int, int]
    classes: dict[int, ClassInfo]


def of_run(run: Path, method: str | None = None) -> Settings:
    """Settings of a run folder; those of `method`, where it ran with its own (a sweep).

    Raises RunError where it has none, what `load_manifest` raises where its benchmark is gone.
    """
    path = run / "config.yaml"
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"{run} is not the folder of a run: {path} cannot be read ({error})") from error
    if not isinstance(stored, dict):
        raise RunError(f"{path}: not the settings of a run")
    stored |= _own_settings(run, method)
    known = {f.name for f in dataclasses.fields(RunConfig)}
    values: dict[str, Any] = {
        k: Path(v) if k in PATHS and v is not None else v for k, v in stored.items() if k in known
    }
    config = RunConfig(**values)
    try:
        manifest = load_manifest(config.benchmark)
    except (ManifestError, UnknownNameError) as error:
        raise RunError(f"{run} needs the benchmark it was made on: {error}") from error
    return of_manifest(config, manifest)


def _own_settings(run: Path, method: str | None) -> dict[str, Any]:
    """What results.json says of one method; empty before the run is finished."""
    path = run / "results.json"
    if method is None or not path.is_file():
        return {}
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["methods"]
        return next((dict(r["config"]) for r in records if r["name"] == method), {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not the results of a run ({error})") from error


def of_manifest(config: RunConfig, manifest: Manifest) -> Settings:
    """Settings of a benchmark; what it recommends stands where `config` leaves it open."""
    wanted = manifest.recommended
    config = dataclasses.replace(
        config,
        proposals=config.proposals or wanted.proposals or "superpixels",
        keys=config.keys or wanted.keys or "pooled",
        decoder=config.decoder or wanted.decoder or "fpn",
    )
    size = (int(manifest.input_size[0]), int(manifest.input_size[1]))
    return Settings(config, manifest.task_kind, size, {c.id: c for c in manifest.info})


def of_memory(memory: MemoryStore, run: Path | None = None) -> Settings:
    """Settings of a memory: those it carries, else those of `run` or of the run that keeps it.

    The names are those of the memory itself. Raises KcError where nobody knows how its keys were made.
    """
    names = names_in(memory)
    stored = memory.extra.get(SETTINGS)
    if run is None and stored is not None:
        settings = from_json(stored, memory.path)
    else:
        place = memory.path.absolute()
        if run is None and place.parent.parent.name == "methods" and (place.parents[2] / "config.yaml").is_file():
            run = place.parents[2]
        if run is None:
            raise KcError(f"{memory.path} lies in no run that says how its keys were made: give --run RUN")
        method = place.parent.name.rpartition("-s")[0] if place.parent.parent.name == "methods" else None
        settings = of_run(run, method)
    if not names:
        return settings
    plain = {id_: settings.classes.get(id_, ClassInfo(id_, name)) for id_, name in names.items()}
    classes = {id_: dataclasses.replace(info, name=names[id_]) for id_, info in plain.items()}
    return dataclasses.replace(settings, classes=classes)


def names_in(memory: MemoryStore) -> dict[int, str]:
    """Class id -> name, as the memory keeps them; empty for one that keeps none."""
    return {int(id_): str(name) for id_, name in memory.extra.get(CLASSES, {}).items()}


def to_json(settings: Settings) -> dict[str, Any]:
    """What `from_json` reads: the settings that make keys."""
    config = settings.config
    values = {"encoder": config.encoder, "proposals": config.proposals, "keys": config.keys}
    return {**values, "kind": settings.kind, "input_size": list(settings.input_size)}


def from_json(stored: Mapping[str, Any], where: object) -> Settings:
    """Raises KcError for what `to_json` did not write."""
    try:
        config = RunConfig(encoder=stored["encoder"], proposals=stored["proposals"], keys=stored["keys"])
        height, width = (int(n) for n in stored["input_size"])
        if stored["kind"] not in ("classification", "semantic"):
            raise ValueError(f"kind {stored['kind']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise KcError(f"{where}: its settings cannot be read ({error})") from error
    return Settings(config, cast(TaskKind, stored["kind"]), (height, width), {})
