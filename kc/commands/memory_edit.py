"""`kc memory add`, `snapshot` and `reweight`: put images into a memory, name its state, weigh its rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from kc.commands.memory_config import MemoryConfig
from kc.commands.memory_selection import class_ids, class_names, run_settings, selected
from kc.commands.memory_tables import by_class
from kc.data.manifest import load_manifest
from kc.data.readers.base import list_files, read_image
from kc.data.transforms import image_to_tensor
from kc.encoders.base import Encoder
from kc.encoders.load import load_encoder
from kc.errors import FingerprintError, KcError, unknown_name
from kc.memory.base import MemoryStore
from kc.memory.disk import Memory
from kc.memory.vote.pruning import hard, leave_one_out, soft
from kc.methods.regions import normalised
from kc.progress import track
from kc.types import Float32Array, Int64Array, Rows

PRUNE = {"soft": 10, "hard": 100}
"""Ways of pruning, and the neighbours over which each counts wrong votes: the paper's."""


@dataclass(frozen=True)
class Eye:
    """The encoder of a memory's keys and the size (H, W) at which it sees images."""

    encoder: Encoder
    size: tuple[int, int]

    @torch.no_grad()
    def key(self, root: Path, file: str) -> Float32Array:
        """Key (1, D) of an image file."""
        image = image_to_tensor(read_image(root, file), self.size)[None]
        return normalised(self.encoder.encode(image).pooled)


def eye_of(memory: MemoryStore, config: MemoryConfig, encoder: str | None = None) -> Eye:
    """What made the memory's keys, as its run or the options say; with `encoder`, that one instead.

    KcError where neither says it or the keys are of regions, FingerprintError for another encoder than the memory's.
    """
    settings = {"benchmark": None, "encoder": None, **run_settings(config.memory)}
    given = {"benchmark": config.benchmark, "encoder": encoder or config.encoder}
    settings |= {name: value for name, value in given.items() if value is not None}
    for name in ("benchmark", "encoder"):
        if settings[name] is None:
            raise KcError(f"{memory.path} lies in no run that says its {name}: give --{name}")
    if "+" in memory.fingerprint:
        raise KcError(f"{memory.path} holds keys of regions; images can be put into memories of whole images only")
    network = load_encoder(settings["encoder"])
    if encoder is None and network.fingerprint != memory.fingerprint:
        raise FingerprintError(
            f"{memory.path} holds keys of encoder {memory.fingerprint!r}, but {settings['encoder']!r} is "
            f"{network.fingerprint!r}: give the encoder that made them"
        )
    height, width = load_manifest(settings["benchmark"]).input_size
    return Eye(network, (height, width))


def add(config: MemoryConfig, console: Console) -> int:
    """Encode the images of a folder (`--class`) or of class folders, and commit them as a new task."""
    folder = Path(str(config.first)).expanduser().absolute()
    if not folder.is_dir():
        raise KcError(f"{folder}: no such folder")
    with Memory.open(config.memory, write=not config.dry_run) as memory:
        names = class_names(memory, config.benchmark)
        found, new_names = images_of(folder, config.class_, names)
        eye = eye_of(memory, config)
        task = next_task(memory, config.task)
        before, n_new = len(memory), 0
        labels = np.array([c for c, files in found for _ in files], np.int64)
        if config.dry_run:
            stored = memory.ids(sample_id={f"{folder.name}/{file}" for _, files in found for file in files})
            n_new = len(labels) - len(stored)
        else:
            for class_id, files in found:
                for file in track(files, f"encoding {class_id}", console):
                    rows = Rows(
                        eye.key(folder, file), np.array([class_id]), (f"{folder.name}/{file}",), np.zeros(1, np.int64),
                        source=config.source or folder.name,
                    )  # fmt: skip
                    n_new += memory.add(rows, task)
            memory.commit(task)
            if new_names:
                memory.name_classes({**names, **new_names})
        done = "would add" if config.dry_run else "added"
        console.print(f"{done} {n_new:,} of {len(labels):,} rows as task {task + 1}", highlight=False, soft_wrap=True)
        if new_names:
            tense = "would be" if config.dry_run else "are"
            console.print(f"new classes {tense}: {', '.join(new_names.values())}", highlight=False, soft_wrap=True)
        by_class(labels, np.full(len(labels), task), {**names, **new_names}, console)
        console.print(f"rows: {before:,} before, {before + n_new:,} after", highlight=False)
    return 0


def images_of(
    folder: Path, class_: str | None, names: dict[int, str]
) -> tuple[list[tuple[int, list[str]]], dict[int, str]]:
    """Class id and image files (relative to `folder`) of each class, and the names of classes that are new.

    With `class_` all images of the folder are of that class; else each folder in it is one. A name that the memory does
    not know becomes a new class, numbered after all others. KcError for a folder without an image.
    """
    wanted = [(class_, ".")] if class_ else [(p.name, p.name) for p in sorted(folder.iterdir()) if p.is_dir()]
    if not wanted:
        raise KcError(f"{folder} holds no folders of classes: say with --class which class its images are")
    by_name = {name: id_ for id_, name in names.items()}
    found: list[tuple[int, list[str]]] = []
    new: dict[int, str] = {}
    for name, place in wanted:
        files = list_files(folder, place)
        if not files:
            raise KcError(f"{folder / place} holds no image")
        known = name in by_name or name.isdigit()
        if not known:
            id_ = max([-1, *names, *new]) + 1
            new[id_] = name
        else:
            (id_,) = class_ids(name, names)
        found.append((id_, files))
    return found, new


def next_task(memory: MemoryStore, text: str | None) -> int:
    """The task (index) of a commit: the one given, counted from 1, else one after the newest."""
    newest = max((v.task for v in memory.versions()), default=-1)
    if text is None:
        return newest + 1
    if not text.isdigit() or int(text) - 1 < newest or int(text) < 1:
        raise KcError(f"--task {text}: expected a task from {max(newest, 0) + 1} on; earlier versions do not change")
    return int(text) - 1


def snapshot(config: MemoryConfig, console: Console) -> int:
    """Name the state of now as the version of a task, so that it can be asked for later."""
    with Memory.open(config.memory, write=not config.dry_run) as memory:
        task = next_task(memory, config.task)
        if not config.dry_run:
            memory.commit(task)
        done = "would be" if config.dry_run else "is"
        console.print(f"the state of now, {len(memory):,} rows, {done} the version of task {task + 1}", highlight=False)
    return 0


def reweight(config: MemoryConfig, console: Console) -> int:
    """Give rows a weight (`--weight` and filters), or the factor of soft or hard pruning (`--prune`)."""
    if (config.weight is None) == (config.prune is None):
        raise KcError("say one of --weight W (with --ids, --class ...) and --prune soft or hard")
    with Memory.open(config.memory, write=not config.dry_run) as memory:
        names, labels = class_names(memory, config.benchmark), memory.labels()
        if config.prune is not None:
            ids, weights = pruned(memory, config.prune)
        else:
            assert config.weight is not None
            if not 0 <= config.weight < float("inf"):
                raise KcError(f"--weight {config.weight}: must be at least 0")
            ids = selected(memory, config, names, retired=False)
            weights = np.full(len(ids), config.weight, np.float32)
        at = np.searchsorted(labels.id, ids)
        changed = labels.weight[at] != weights
        ids, weights, at = ids[changed], weights[changed], at[changed]
        if len(ids) == 0:
            console.print("no row meets the filters with another weight: nothing to do")
            return 1 if config.strict else 0
        if not config.dry_run:
            memory.reweight(ids, weights)
        done = "would give" if config.dry_run else "gave"
        hidden = int((weights == 0).sum())
        tail = f", {hidden:,} of them 0: no search finds them" if hidden else ""
        span = f"{weights.min():.3g}" + (f" to {weights.max():.3g}" if weights.max() > weights.min() else "")
        console.print(f"{done} {len(ids):,} rows a weight of {span}{tail}", highlight=False, soft_wrap=True)
        by_class(labels.class_id[at], labels.task[at], names, console)
        console.print(f"kc memory snapshot {config.memory} names this state; versions before keep the old weights")
    return 0


def pruned(memory: Memory, kind: str) -> tuple[Int64Array, Float32Array]:
    """Ids and new weights of the rows that pruning weighs, from a search of the memory in itself."""
    if kind not in PRUNE:
        raise unknown_name("kind of pruning", kind, PRUNE)
    table = leave_one_out(memory, PRUNE[kind])
    k = min(PRUNE[kind], max(len(table) - 1, 1))
    factor = soft(table, k=k) if kind == "soft" else hard(table, k=k)
    return table.id, table.weight * factor
