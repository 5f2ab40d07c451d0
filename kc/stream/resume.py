"""What a run has finished, on disk: enough to go on after the last whole task with the same numbers."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kc.errors import RunError
from kc.files import atomic_path, write_atomic
from kc.outside import read_yaml
from kc.versions import numeric_versions

FINGERPRINTS = "fingerprints.yaml"
"""File of a run folder: what its numbers are made of, with which settings and versions."""


@dataclass
class MethodState:
    """The record of one method and seed so far; `rows[t]` are the scores after task t (None = undefined)."""

    name: str
    seed: int
    metric: str
    rows: list[list[float | None]] = field(default_factory=list)
    seen: list[float | None] = field(default_factory=list)
    per_class: list[dict[str, float | None]] = field(default_factory=list)
    final: dict[str, float | None] = field(default_factory=dict)
    cost: list[dict[str, float]] = field(default_factory=list)
    baseline: list[float | None] = field(default_factory=list)
    """Scores on each task before anything is learned; empty where the method cannot answer then."""
    confusion: dict[str, float | None] = field(default_factory=dict)
    """Of old and new classes after the last task done, see `kc.metrics.confusion.old_and_new`."""
    all_images: bool = False
    """Whether it reads the images of all earlier tasks again, whose bytes are not in `cost`."""
    versions: dict[str, list[str]] = field(default_factory=dict)
    """Of Python, kc and the packages that change numbers: every version that computed a task, in order."""

    def computed_here(self) -> None:
        """Note the versions of this process."""
        for name, version in ({"python": platform.python_version()} | numeric_versions()).items():
            known = self.versions.setdefault(name, [])
            if version not in known[-1:]:
                known.append(version)

    @property
    def tasks_done(self) -> int:
        """Number of whole tasks."""
        return len(self.rows)

    def save(self, folder: Path) -> None:
        """Write the state: this is the moment at which a task counts as done."""
        write_atomic(folder / "state.json", json.dumps(asdict(self), indent=1, allow_nan=False).encode())

    @classmethod
    def load(cls, folder: Path) -> MethodState | None:
        """Read the state, or None where no task was finished. Raises RunError for a file that is not one."""
        path = folder / "state.json"
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise RunError(f"{path}: not a state file ({error}); delete {folder} to run this method again") from error


def none_if_nan(value: float) -> float | None:
    """JSON has no NaN: an undefined score is null."""
    return None if math.isnan(value) else float(value)


def checkpoint_path(folder: Path, task: int) -> Path:
    """Where the state after a task lies (tasks counted from 0)."""
    return folder / f"checkpoint-{task:03d}.safetensors"


def save_checkpoint(folder: Path, task: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON values in one safetensors file, whole or not at all. Raises RunError."""
    path = checkpoint_path(folder, task)
    with atomic_path(path, failures=(OSError, RuntimeError, SafetensorError)) as temporary:
        save_file(dict(tensors), temporary, metadata={"kc": json.dumps(dict(meta))})


def load_checkpoint(folder: Path, task: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote; nothing in the file is executed. Raises RunError."""
    path = checkpoint_path(folder, task)
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["kc"])
        return load_file(path), meta
    except Exception as error:
        raise RunError(f"{path}: not a checkpoint of kc ({error}); delete {folder} to run this method again") from error


def check_unchanged(
    folder: Path, here: Mapping[str, Mapping[str, Any]], accept: bool, words: Mapping[str, Callable[[str, str], str]]
) -> None:
    """Keep what a run is started with in `fingerprints.yaml`, or compare it with what was kept.

    `here`: part -> name -> value. `accept`: go on although something differs, and keep that for the record. `words`:
    name -> what says how two values differ, or "". Raises RunError naming what differs.
    """
    path = folder / FINGERPRINTS
    before = _fingerprints(path) if path.exists() else here
    changes = []
    for part, values in here.items():
        was: Mapping[str, Any] = before.get(part) or {}
        for name in sorted(n for n in {*was, *values} if was.get(n) != values.get(n)):
            old, new = was.get(name), values.get(name)
            found = words[name](str(old), str(new)) if name in words else ""
            changes.append(f"{name}: {found or f'{old} is now {new}'}")
    if changes and not accept:
        said = "\n  ".join(changes)
        raise RunError(
            f"{folder}: since this run was started something has changed:\n  {said}\nStart a new run, or give "
            "--accept-changes to go on; results.json then says so"
        )
    if changes or not path.exists():
        accepted = [*before.get("accepted changes", []), *changes]
        write_atomic(path, yaml.safe_dump({**here, "accepted changes": accepted}, allow_unicode=True).encode())


def accepted_changes(folder: Path) -> list[str]:
    """What `--accept-changes` let pass, of all times a run was resumed."""
    found: list[str] = _fingerprints(folder / FINGERPRINTS).get("accepted changes", [])
    return found


def _fingerprints(path: Path) -> Mapping[str, Any]:
    content = read_yaml(path, error=RunError)
    if not isinstance(content, Mapping) or not all(isinstance(part, Mapping | list) for part in content.values()):
        raise RunError(f"{path}: not the fingerprints of a run; it was edited or damaged: start a new run")
    return content
