"""`kc memory verify`, `repair`, `export` and `import`, and the proof that what was erased is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from kc.actions import BY_PLACE
from kc.commands.console import Terminal
from kc.commands.memory import MemoryConfig, by_class, id_list, opened, task_index
from kc.errors import KcError
from kc.spec import Count

if TYPE_CHECKING:
    from kc.memory.base import MemoryStore
    from kc.memory.copies import Copies
    from kc.memory.erasure import Traces
    from kc.memory.store.exchange import Header
    from kc.memory.vote.background import Rule


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(MemoryConfig):
    """Check every file; with --absent prove that rows are gone, and exit with 1 where they are found.

    Args:
        file: With --absent: a .npz or .parquet file, exported before, that holds the rows: their bytes are looked for.
        absent: Ids of rows that should be gone: 3,7,10-20.
    """

    file: Annotated[Path | None, BY_PLACE] = None
    absent: str | None = None


def verify(config: VerifyConfig) -> int:
    """`kc memory verify`. Returns the exit status."""
    from kc.memory.erasure import Traces, traces_of_export

    console, memory = Terminal(), opened(config.memory)
    report = memory.verify()
    console.say(
        f"sound: {report['files']} files, {report['bytes'] / 2**20:.1f} MiB, {report['rows']:,} rows, as written"
    )
    for name in report["orphans"]:
        console.say(f"left over, named by nothing: {name} (kc memory repair removes it)")
    if config.absent is None:
        if config.file is not None:
            raise KcError("kc memory verify DIR FILE needs --absent IDS: the rows of the export that should be gone")
        return 0
    wanted = id_list(config.absent, memory._next_id)
    if config.file is not None:
        header, tables = read(config.file)
        if header.dim != memory.dim:
            raise KcError(f"{config.file} holds keys of {header.dim} values, {config.memory} of {memory.dim}")
        try:
            gone = traces_of_export(tables, memory, wanted)
        except ValueError as error:
            raise KcError(f"{config.file}: {error}") from error
    else:
        gone = Traces(wanted, np.zeros((0, memory.dim), np.float32))
    status = proof(memory, gone, console)
    if config.file is None:
        console.say(
            "only ids were looked for: the bytes of a key are known to an export made before "
            "(kc memory verify DIR FILE --absent IDS), or to the erase itself, which looks for them"
        )
    return status


def proof(memory: MemoryStore, gone: Traces, console: Terminal, copies: Copies | None = None) -> int:
    """Look for erased rows, compare answers, and say what was found, and in which `copies`; the exit status."""
    from kc.memory.erasure import N_QUERIES, NOT_ERASED, compare_with_rebuilt, prove_absent

    result = prove_absent(memory.path, gone)
    looked = f"{len(gone.ids):,} ids, {len(gone.keys):,} keys, {len(gone.names):,} names"
    where = f"{result.files} files, {result.bytes / 2**20:.1f} MiB"
    for copy in () if copies is None else copies.removed:
        console.say(f"erased from a copy: {copy}")
    if not result:
        console.say(f"still there: of {looked} in {where}", style="bold")
        for sentence in result.found:
            console.say(f"  {sentence}")
        return 1
    console.say(f"absent: {looked} are in none of {where}")
    answers = compare_with_rebuilt(memory, gone.keys)
    if answers is not None and not answers.equal:
        console.say("answers differ from those of a memory that never had the rows", style="bold")
        return 1
    console.say(
        "answers were not compared: the memory is too large to make a second one"
        if answers is None
        else f"answers to {answers.queries} queries are bitwise those of a memory that never had the rows: ids, "
        f"scores, classes and weights of the {N_QUERIES} nearest, and so every vote"
    )
    if gone.twins:
        console.say(f"{len(gone.twins):,} of the keys are, bit by bit, those of rows that stay too")
    console.say("what this does not reach:")
    for sentence in NOT_ERASED if copies is None else copies.left:
        console.say(f"  {sentence}")
    return 0


@dataclass(frozen=True, kw_only=True)
class RepairConfig(MemoryConfig):
    """Remove files that no manifest names, or infer what rows labelled background are.

    Args:
        background: How rows labelled background are taken from now on, instead of removing files: keep, ignore, last,
            repair (each as the class that other tasks' rows infer) or per-task. No row changes: keep undoes it.
        dry_run: Say what would be removed, and change nothing.
    """

    background: Literal["keep", "ignore", "last", "repair", "per-task"] | None = None
    dry_run: bool = False


def repair(config: RepairConfig) -> int:
    """`kc memory repair`. Returns the exit status."""
    from kc.memory.disk import Memory

    console = Terminal()
    if config.background is not None:
        with opened(config.memory, write=not config.dry_run) as memory:
            return take_background(memory, config.background, config.dry_run, console)
    if config.dry_run:
        done = [f"would remove {name}" for name in opened(config.memory).verify()["orphans"]]
    else:
        done = Memory.repair(config.memory)
    for sentence in done or ["nothing to repair"]:
        console.say(sentence)
    return 0


def take_background(memory: MemoryStore, rule: Rule, dry_run: bool, console: Terminal) -> int:
    """Make `rule` the memory's, and say what it infers; KcError where there is no task or no background class."""
    from kc.memory.vote.background import Background

    info = memory.info
    method = info.method or "knn"
    if not memory.versions():
        raise KcError(f"{memory.path} has no task: nothing was committed to it")
    if not memory.background_ids:
        raise KcError(f"{memory.path} has no background class")
    found = Background(rule).inferred(memory)
    if not dry_run:
        options = {**info.options, method: {**info.options.get(method, {}), "background": rule}}
        with memory.with_info(replace(info, method=method, options=options)):
            pass
    rows = memory.rows_of(found.id)
    console.say(f"background: {rule}; {len(found.id):,} rows labelled background have an inferred class")
    if len(found.id):
        by_class(found.class_id, rows.task, memory.class_names, console)
    return 0


@dataclass(frozen=True, kw_only=True)
class ExportConfig(MemoryConfig):
    """Write the rows to a file.

    Args:
        file: The .npz or .parquet file to write.
        at: The memory as it was after this task, counted from 1; default: the present.
        dry_run: Say what would be written, and write nothing.
    """

    file: Path
    at: Count | None = None
    dry_run: bool = False


def export(config: ExportConfig) -> int:
    """`kc memory export`. Returns the exit status."""
    console, memory, path = Terminal(), opened(config.memory), config.file
    at = task_index(memory, config.at)
    if config.dry_run:
        console.say(f"would write {len(memory.labels(at).id):,} rows to {path}")
        return 0
    try:
        n_rows = memory.export(path, at)
    except ValueError as error:
        raise KcError(str(error)) from error
    size = path.stat().st_size / 2**20
    console.say(f"written: {path}, {n_rows:,} rows, {size:.1f} MiB")
    console.say("kc forget takes rows out of it as long as it lies there, unless --keep-exports is given")
    return 0


@dataclass(frozen=True, kw_only=True)
class ImportConfig(MemoryConfig):
    """Add the rows of a file; a new memory is made where there is none.

    Args:
        file: The .npz or .parquet file to read.
        dry_run: Say what would be added, and change nothing.
    """

    file: Path
    dry_run: bool = False


def import_(config: ImportConfig) -> int:
    """`kc memory import`. Returns the exit status."""
    from kc.memory.disk import Memory

    console, path = Terminal(), config.file
    header, tables = read(path)
    if not Memory.exists(config.memory):
        if not config.dry_run:
            Memory.create_from(config.memory, path).close()
        done = "would make" if config.dry_run else "made"
        console.say(f"{done} {config.memory} of {header.rows:,} rows")
        return 0
    with opened(config.memory, write=True) as memory:
        before = len(memory)
        try:
            n_new = memory.import_rows(path)
        except ValueError as error:
            raise KcError(str(error)) from error
        tasks = [v.task for v in memory.versions()] + [int(t.task.max()) for t in tables if len(t)]
        if not config.dry_run and n_new:
            memory.commit(max(tasks))
        done = "would add" if config.dry_run else "added"
        console.say(f"{done} {n_new:,} of {header.rows:,} rows; the others were there already")
        console.say(f"rows: {before:,} before, {before + n_new:,} after")
    return 0


def read(path: Path) -> tuple[Header, Sequence[Any]]:
    """The tables of an exported file. Raises KcError for one that cannot be read."""
    from kc.memory.store import exchange

    try:
        return exchange.read(path)
    except ValueError as error:
        raise KcError(str(error)) from error
