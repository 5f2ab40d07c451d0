"""`kc memory migrate`: a memory in the key space of another encoder, where only some images are still there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from kc.commands.explain import Sources
from kc.commands.memory_config import MemoryConfig
from kc.commands.memory_edit import Eye, eye_of
from kc.commands.memory_selection import class_names, run_settings
from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.open import open_reader
from kc.data.transforms import image_to_tensor
from kc.errors import DataError, KcError, unknown_name
from kc.memory.disk import Memory
from kc.memory.search.spaces import MAPS, SpaceMap, fit_map
from kc.memory.store.table import Labels, RowTable
from kc.memory.vote.evaluation import accuracies
from kc.methods.regions import normalised
from kc.progress import track
from kc.types import BoolArray, Float32Array, Int64Array, Rows, UInt8Array

MARK = "migrated:"
"""In front of the source of a row whose key was mapped, not encoded."""


@dataclass(frozen=True)
class Plan:
    """The rows of a memory (N) in id order, and their new keys (N, D) where `there` (N,): the image was found."""

    labels: Labels
    rows: RowTable
    old: Float32Array
    new: Float32Array
    there: BoolArray


def migrate(config: MemoryConfig, console: Console) -> int:
    """Encode again what can be seen, map the rest, write a new memory, and say what each memory is worth."""
    if config.to is None:
        raise KcError("kc memory migrate DIR NEW --to ENCODER: say to which encoder")
    if config.fit not in MAPS:
        raise unknown_name("map", config.fit, MAPS)
    target = Path(str(config.first))
    if target.exists() and any(target.iterdir()):
        raise KcError(f"{target} is not empty: choose another folder for the new memory")
    memory = Memory.open(config.memory)
    if memory.anonymous:
        raise KcError(f"{config.memory} keeps hashes of names: its images cannot be found again")
    before, after = eye_of(memory, config), eye_of(memory, config, config.to)
    if before.encoder.fingerprint == after.encoder.fingerprint:
        raise KcError(f"{config.memory} holds keys of {config.to!r} already")
    settings = {"benchmark": config.benchmark, **run_settings(config.memory)}
    manifest = load_manifest(config.benchmark or settings["benchmark"])
    root = config.data_root or (Path(settings["data_root"]) if settings.get("data_root") else None)
    plan = planned(memory, Sources.open(manifest, root), after, console)
    gone = int((~plan.there).sum())
    if gone and plan.there.sum() < 2:
        raise KcError(f"of {len(plan.there):,} images {int(plan.there.sum())} are there: a map needs at least two")
    moved = fit_map(plan.old[plan.there], plan.new[plan.there], config.fit) if gone else None
    keys = plan.new.copy()
    if moved is not None:
        keys[~plan.there] = moved(plan.old[~plan.there])
        empty = np.linalg.norm(keys, axis=1) == 0
        if empty.any():
            raise KcError(f"{int(empty.sum())} rows map to nothing: fit on more images, or use --fit orthogonal")
    done = "would encode" if config.dry_run else "encoded"
    console.print(
        f"{done} {int(plan.there.sum()):,} rows again, mapped {gone:,} whose images are gone"
        + (f" ({config.fit}, fitted on the {moved.rows:,})" if moved else ""),
        highlight=False,
        soft_wrap=True,
    )
    if not config.dry_run:
        written(target, memory, plan, keys, after, moved, class_names(memory, config.benchmark))
        console.print(f"written: {target}; mapped rows have sources that begin with {MARK!r}", highlight=False)
    compare(manifest, root, plan, keys, before, after, console)
    return 0


def planned(memory: Memory, sources: Sources, eye: Eye, console: Console) -> Plan:
    """Look for the image of every visible row, and encode those that are found."""
    labels = memory.labels()
    rows = memory.rows_of(labels.id)
    new = np.zeros((len(labels.id), eye.encoder.pooled_dim), np.float32)
    there = np.zeros(len(labels.id), bool)
    for i, name in enumerate(track(rows.sample_id, "encoding", console)):
        try:
            sample = sources.sample(name)
        except DataError:  # listed by the benchmark, but the file is gone: what this command is for
            continue
        if sample is not None:
            new[i], there[i] = encoded(eye, sample.image)[0], True
    return Plan(labels, rows, memory.keys(labels.id), new, there)


@torch.no_grad()
def encoded(eye: Eye, image: UInt8Array) -> Float32Array:
    """Key (1, D) of an image (H, W, 3) uint8."""
    return normalised(eye.encoder.encode(image_to_tensor(image, eye.size)[None]).pooled)


def written(
    target: Path,
    memory: Memory,
    plan: Plan,
    keys: Float32Array,
    eye: Eye,
    moved: SpaceMap | None,
    names: dict[int, str],
) -> None:
    """Write the new memory, a commit a task, rows in id order; mapped rows are marked in their source."""
    extra = {
        **memory.extra, "classes": {str(c): n for c, n in names.items()},
        "migrated": {"from": memory.fingerprint, "map": moved.kind if moved else None,
                     "penalty": moved.penalty if moved else None, "mapped": int((~plan.there).sum())},
    }  # fmt: skip
    sources = [s if t else f"{MARK}{s}" for s, t in zip(plan.rows.source, plan.there, strict=True)]
    new = Memory.create(target, dim=keys.shape[1], fingerprint=eye.encoder.fingerprint, extra=extra)
    with new:
        for task in np.unique(plan.rows.task):
            here = np.flatnonzero(plan.rows.task == task)
            # One source a batch of rows: runs of equal sources keep the order of the ids.
            cuts = [i for i in range(1, len(here)) if sources[here[i]] != sources[here[i - 1]]]
            for part in np.split(here, cuts):
                new.add(batch(plan, keys, part, sources[part[0]]), int(task))
            new.commit(int(task))


def batch(plan: Plan, keys: Float32Array, part: Int64Array, source: str) -> Rows:
    """The rows at positions `part` as they are stored."""
    names = tuple(plan.rows.sample_id[i] for i in part)
    return Rows(
        keys[part], plan.labels.class_id[part], names, plan.rows.segment[part], source=source,
        weight=plan.labels.weight[part],
    )  # fmt: skip


def compare(
    manifest: Manifest, root: Path | None, plan: Plan, keys: Float32Array, before: Eye, after: Eye, console: Console
) -> None:
    """Accuracy on the benchmark's test images, 10 neighbours, rank vote: of the old memory, of the migrated one, and of
    its encoded rows alone; says so where the test images are not there."""
    from kc.studies.visual_memory.keys import Keys, answers

    try:
        reader = open_reader(manifest, "test", root)
    except DataError as error:
        console.print(f"accuracy is not known: {error}", highlight=False, soft_wrap=True)
        return
    old, new, truth = [], [], []
    for i in track(range(len(reader)), "test images", console):
        sample = reader.read(i)
        assert sample.label is not None
        old.append(encoded(before, sample.image))
        new.append(encoded(after, sample.image))
        truth.append(sample.label)
    names, zeros = plan.rows.sample_id, plan.rows.segment
    whole = Keys(plan.old, plan.labels.class_id, names, zeros)
    moved = Keys(keys, plan.labels.class_id, names, zeros)
    table = Table("memory", "rows", "accuracy of 10 neighbours, rank vote, %")
    for what, rows, queries in (
        (f"old, {before.encoder.name}", whole, old),
        (f"migrated, {after.encoder.name}", moved, new),
        (f"encoded again only, {after.encoder.name}", moved.take(plan.there), new),
    ):
        if len(rows):
            found = answers(rows, np.concatenate(queries), 10)
            value = accuracies(found, np.array(truth, np.int64), [10], ["rank"])["rank"][0]
            table.add_row(what, f"{len(rows):,}", f"{100 * value:.1f}")
    console.print(table)
