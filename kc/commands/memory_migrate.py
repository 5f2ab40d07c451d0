"""`kc memory migrate`: a memory in the key space of another encoder, where only some images are still there."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import uuid4

import numpy as np

from kc.actions import FLAG
from kc.commands.console import Terminal
from kc.commands.memory import NamedConfig, class_names, data_root_of, opened
from kc.errors import DataError, FingerprintError, KcError
from kc.spec import DataOptions
from kc.types import BoolArray, Float32Array, Int64Array, Rows

if TYPE_CHECKING:
    from kc.data.manifest import Manifest
    from kc.memory.base import MemoryStore
    from kc.memory.disk import Memory
    from kc.memory.search.spaces import SpaceMap
    from kc.memory.store.table import Labels, RowTable
    from kc.predict.sources import Sources
    from kc.session import Session

MARK = "migrated:"
"""In front of the source of a row whose key was mapped, not encoded."""


@dataclass(frozen=True, kw_only=True)
class MigrateConfig(NamedConfig, DataOptions):
    """Make a new memory of whole images with the keys of another encoder: rows whose image is there are encoded again,
    the keys of all others are mapped; say what each memory is worth on the benchmark's test images.

    Args:
        new: Folder of the new memory.
        to: Encoder of the new memory.
        fit: How the keys of rows whose image is gone are mapped.
        dry_run: Say what would change, and change nothing.
    """

    new: Path
    to: Annotated[str, FLAG]
    fit: Literal["ridge", "orthogonal"] = "ridge"
    dry_run: bool = False


def sessions(memory: MemoryStore, to: str) -> tuple[Session, Session]:
    """What made the memory's keys, and the same with encoder `to`.

    FingerprintError for another encoder than the memory's.
    """
    from kc.session import Facts, Session, config_of_memory

    info = memory.info
    config, facts = config_of_memory(info), Facts.of_memory(info)
    before = Session.open(config, facts)
    if before.fingerprint != memory.fingerprint:
        raise FingerprintError(
            f"{memory.path} holds keys of encoder {memory.fingerprint!r}, but {config.encoder!r} is now "
            f"{before.fingerprint!r}"
        )
    return before, Session.open(replace(config, encoder=to), facts)


@dataclass(frozen=True)
class Plan:
    """The rows of a memory (N) in id order, and their new keys (N, D) where `there` (N,): the image was found."""

    labels: Labels
    rows: RowTable
    old: Float32Array
    new: Float32Array
    there: BoolArray


def migrate(config: MigrateConfig) -> int:
    """`kc memory migrate`. Returns the exit status."""
    console, target = Terminal(), config.new
    if target.exists() and any(target.iterdir()):
        raise KcError(f"{target} is not empty: choose another folder for the new memory")
    memory = opened(config.memory)
    if memory.anonymous:
        raise KcError(f"{config.memory} keeps hashes of names: its images cannot be found again")
    if memory.info.kind != "classification":
        raise KcError(f"{config.memory} holds keys of regions; memories of whole images can be migrated only")
    from kc.data.manifest import load_manifest
    from kc.memory.search.spaces import fit_map
    from kc.predict.sources import Sources

    before, after = sessions(memory, config.to)
    if before.encoder.fingerprint == after.encoder.fingerprint:
        raise KcError(f"{config.memory} holds keys of {config.to!r} already")
    root = data_root_of(config.memory, config.data_root)
    manifest = load_manifest(config.benchmark or memory.info.benchmark)
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
    console.say(
        f"{done} {int(plan.there.sum()):,} rows again, mapped {gone:,} whose images are gone"
        + (f" ({config.fit}, fitted on the {moved.rows:,})" if moved else "")
    )
    if not config.dry_run:
        names = class_names(memory, config.benchmark)
        written(target, memory, plan, keys, after.encoder.name, after.encoder.fingerprint, moved, names)
        console.say(f"written: {target}; mapped rows have sources that begin with {MARK!r}")
    compare(manifest, root, plan, keys, before, after, console)
    return 0


def planned(memory: Memory, sources: Sources, session: Session, console: Terminal) -> Plan:
    """Look for the image of every visible row, and encode those that are found."""
    from kc.progress import track

    labels = memory.labels()
    rows = memory.rows_of(labels.id)
    new = np.zeros((len(labels.id), session.encoder.pooled_dim), np.float32)
    there = np.zeros(len(labels.id), bool)
    for i, name in enumerate(track(rows.sample_id, "encoding", console)):
        try:
            sample = sources.sample(name)
        except DataError:  # listed by the benchmark, but the file is gone: what this command is for
            continue
        if sample is not None:
            new[i], there[i] = session.keys_of(sample.image)[0][0], True
    return Plan(labels, rows, memory.keys(labels.id), new, there)


def written(
    target: Path,
    memory: Memory,
    plan: Plan,
    keys: Float32Array,
    encoder: str,
    fingerprint: str,
    moved: SpaceMap | None,
    names: dict[int, str],
) -> None:
    """Write the new memory, a commit a task, rows in id order; mapped rows are marked in their source."""
    from kc.memory.disk import Memory
    from kc.memory.store.exchange import note
    from kc.memory.store.files import remove, sync_folder

    migration = {
        "from": memory.fingerprint,
        "map": moved.kind if moved else None,
        "penalty": moved.penalty if moved else None,
        "mapped": int((~plan.there).sum()),
    }
    options = {**memory.info.options, "migration": migration}
    info = replace(memory.info.with_names(names), encoder=encoder, options=options)
    sources = [s if t else f"{MARK}{s}" for s, t in zip(plan.rows.source, plan.there, strict=True)]
    note(memory.path, target)
    # Renamed when it is whole: a process that is killed leaves nothing that opens under the name.
    begun = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with Memory.create(begun, dim=keys.shape[1], fingerprint=fingerprint, info=info) as new:
            for task in np.unique(plan.rows.task):
                here = np.flatnonzero(plan.rows.task == task)
                # One source a batch of rows: runs of equal sources keep the order of the ids.
                cuts = [i for i in range(1, len(here)) if sources[here[i]] != sources[here[i - 1]]]
                for part in np.split(here, cuts):
                    new.add(batch(plan, keys, part, sources[part[0]]), int(task))
                new.commit(int(task))
        os.replace(begun, target)
        sync_folder(target.parent)
    except OSError as error:
        raise KcError(f"cannot write {target}: {error.strerror}") from error
    finally:
        remove(begun)


def batch(plan: Plan, keys: Float32Array, part: Int64Array, source: str) -> Rows:
    """The rows at positions `part` as they are stored."""
    names = tuple(plan.rows.sample_id[i] for i in part)
    return Rows(
        keys[part], plan.labels.class_id[part], names, plan.rows.segment[part], source=source,
        weight=plan.labels.weight[part],
    )  # fmt: skip


def compare(
    manifest: Manifest,
    root: Path | None,
    plan: Plan,
    keys: Float32Array,
    before: Session,
    after: Session,
    console: Terminal,
) -> None:
    """Accuracy on the benchmark's test images, 10 neighbours, rank vote: of the old memory, of the migrated one, and of
    its encoded rows alone; says so where the test images are not there."""
    from rich.table import Table

    from kc.data.readers.open import open_reader
    from kc.memory.vote.evaluation import accuracies
    from kc.progress import track
    from kc.studies.keys import Keys, memory_of

    try:
        reader = open_reader(manifest, "test", root)
    except DataError as error:
        console.say(f"accuracy is not known: {error}")
        return
    old, new, truth = [], [], []
    for i in track(range(len(reader)), "test images", console):
        sample = reader.read(i)
        assert sample.label is not None
        old.append(before.keys_of(sample.image)[0])
        new.append(after.keys_of(sample.image)[0])
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
            with memory_of(rows.rows()) as memory:
                found = memory.search(np.concatenate(queries), 10)
            value = accuracies(found, np.array(truth, np.int64), [10], ["rank"])["rank"][0]
            table.add_row(what, f"{len(rows):,}", f"{100 * value:.1f}")
    console.print(table)
