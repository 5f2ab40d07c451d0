"""`kc memory snapshot`, `reweight`, `remove` and `compact`: actions that change which rows are seen, and how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from kc.commands.memory import (
    MemoryConfig,
    NamedConfig,
    RowsConfig,
    by_class,
    class_names,
    next_task,
    opened,
    selected,
    summary_of,
    terminal,
)
from kc.errors import KcError
from kc.memory.store.inputs import check_weights
from kc.spec import NonNegative, Whole
from kc.types import Float32Array, Int64Array

if TYPE_CHECKING:
    from kc.memory.disk import Memory

Pruning = Literal["soft", "hard"]
PRUNE: dict[Pruning, int] = {"soft": 10, "hard": 100}
"""Ways of pruning, and the neighbours over which each counts wrong votes: those of arXiv 2408.08172."""


@dataclass(frozen=True, kw_only=True)
class SnapshotConfig(MemoryConfig):
    """Name the present state as the version of a task, so that it can be asked for later.

    Args:
        task: The task, counted from 1; default: one after the newest.
        dry_run: Say what would change, and change nothing.
    """

    task: Whole | None = None
    dry_run: bool = False


def snapshot(config: SnapshotConfig) -> int:
    """`kc memory snapshot`. Returns the exit status."""
    console = terminal()
    with opened(config.memory, write=not config.dry_run) as memory:
        task, named = next_task(memory, config.task), memory.versions()[-1:]
        if config.task is None and named and named[0].seq >= memory.numbers[1]:
            task = named[0].task  # a repetition names nothing new
        if not config.dry_run:
            memory.commit(task)
        done = "would be" if config.dry_run else "is"
        console.say(f"the state of now, {len(memory):,} rows, {done} the version of task {task + 1}")
    return 0


@dataclass(frozen=True, kw_only=True)
class ReweightConfig(NamedConfig, RowsConfig):
    """Give rows a weight (--weight and filters), or the factor of soft or hard pruning (--prune). Repeated pruning
    weighs the weights of before the first, never twice.

    Args:
        weight: Weight of the rows that are meant; 0 hides a row from search.
        prune: Multiply weights by the factor of soft or hard pruning (arXiv 2408.08172).
    """

    weight: NonNegative | None = None
    prune: Pruning | None = None


def reweight(config: ReweightConfig) -> int:
    """`kc memory reweight`. Returns the exit status."""
    console = terminal()
    if (config.weight is None) == (config.prune is None):
        raise KcError("say one of --weight W (with --ids, --class ...) and --prune soft or hard")
    try:
        check_weights(config.weight or 0.0, 1)
    except ValueError as error:
        raise KcError(f"--weight {config.weight}: {error}") from error
    with opened(config.memory, write=not config.dry_run) as memory:
        names, labels = class_names(memory, config.benchmark), memory.labels()
        if config.prune is not None:
            ids, weights = pruned(memory, config.prune)
        else:
            assert config.weight is not None
            ids = selected(memory, config, names, retired=False)
            weights = np.full(len(ids), config.weight, np.float32)
        at = np.searchsorted(labels.id, ids)
        changed = labels.weight[at] != weights
        ids, weights, at = ids[changed], weights[changed], at[changed]
        if len(ids) == 0:
            console.say("no row meets the filters with another weight: nothing to do")
            return 1 if config.strict else 0
        if not config.dry_run:
            reweighted(memory, ids, weights, config.prune)
        done = "would give" if config.dry_run else "gave"
        hidden = int((weights == 0).sum())
        tail = f", {hidden:,} of them 0: no search finds them" if hidden else ""
        span = f"{weights.min():.3g}" + (f" to {weights.max():.3g}" if weights.max() > weights.min() else "")
        console.say(f"{done} {len(ids):,} rows a weight of {span}{tail}")
        by_class(labels.class_id[at], labels.task[at], names, console)
        console.say(f"kc memory snapshot {config.memory} names this state; versions before keep the old weights")
    return 0


def pruned(memory: Memory, kind: Pruning) -> tuple[Int64Array, Float32Array]:
    """Ids and new weights of the rows that pruning weighs, from a search of the memory in itself."""
    from kc.memory.vote.pruning import hard, leave_one_out, soft

    before = memory.info.options.get("pruning", {}).get(kind)
    if before is not None and memory.numbers[1] <= before:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    table = leave_one_out(memory, PRUNE[kind])
    k = min(PRUNE[kind], max(len(table) - 1, 1))
    factor = soft(table, k=k) if kind == "soft" else hard(table, k=k)
    weight = table.weight if before is None else memory.weights_before(before, table.id)
    return table.id, weight * factor


def reweighted(memory: Memory, ids: Int64Array, weights: Float32Array, kind: Pruning | None) -> None:
    """Give rows new weights; what pruning did is said in the same commit, so that another one does not weigh again."""
    if kind is None:
        return memory.reweight(ids, weights)
    options = memory.info.options
    pruning = {**options.get("pruning", {}), kind: memory.numbers[0] + 1}
    with memory.with_info(replace(memory.info, options={**options, "pruning": pruning})):
        memory.reweight(ids, weights)


@dataclass(frozen=True, kw_only=True)
class RemoveConfig(NamedConfig, RowsConfig):
    """Retire rows: no search finds them from now on, versions committed before still show them, their bytes stay.
    `kc forget` takes rows out of all versions and files, with proof."""


def remove(config: RemoveConfig) -> int:
    """`kc memory remove`. Returns the exit status."""
    console = terminal()
    with opened(config.memory, write=not config.dry_run) as memory:
        names = class_names(memory, config.benchmark)
        ids = selected(memory, config, names, retired=False)
        if len(ids) == 0:
            console.say("no row meets the filters: nothing to do")
            return 1 if config.strict else 0
        before, rows = len(memory), memory.rows_of(ids)
        if not config.dry_run:
            memory.remove(ids)
        console.say(f"{'would remove' if config.dry_run else 'removed'} {summary_of(rows)}")
        by_class(rows.class_id, rows.task, names, console)
        console.say(f"rows: {before:,} before, {before - len(ids):,} after")
        tense = "would still show" if config.dry_run else "still show"
        console.say(f"versions committed before {tense} them, and their bytes stay: kc forget is rid of both")
        return 0


@dataclass(frozen=True, kw_only=True)
class CompactConfig(MemoryConfig):
    """Join segments and drop what is retired.

    Args:
        drop_history: Keep the present only.
        dry_run: Say what would change, and change nothing.
    """

    drop_history: bool = False
    dry_run: bool = False


def compact(config: CompactConfig) -> int:
    """`kc memory compact`. Returns the exit status."""
    console, before = terminal(), opened(config.memory)
    segments, size = _segments(config.memory), before.stats()["bytes"]
    if config.dry_run:
        dropped = before.stats()["rows_total"] - len(before) if config.drop_history else 0
        versions = max(len(before.versions()) - 1, 0) if config.drop_history else 0
        console.say(f"would join up to {segments} segments, drop {dropped:,} retired rows and {versions} old versions")
        return 0
    with opened(config.memory, write=True) as memory:
        if not memory.compact(history=not config.drop_history):
            console.say("nothing to compact")
            return 0
        now = memory.stats()
        console.say(
            f"segments: {segments} before, {_segments(config.memory)} after; "
            f"{size / 2**20:.1f} MiB before, {now['bytes'] / 2**20:.1f} MiB after; {len(memory):,} rows"
        )
    return 0


def _segments(memory: Path) -> int:
    return sum(1 for _ in (memory / "segments").glob("*"))
