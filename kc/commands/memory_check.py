"""`kc memory verify` and `repair`, and the proof that what was erased is gone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from kc.actions import BY_PLACE
from kc.commands.memory_files import read
from kc.commands.rows import MemoryConfig, id_list
from kc.errors import KcError

if TYPE_CHECKING:
    from kc.commands.console import Terminal
    from kc.memory.base import MemoryStore
    from kc.memory.erasure import Traces


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
    from kc.commands.console import Terminal
    from kc.memory.disk import Memory
    from kc.memory.erasure import Traces, traces_of_export

    console, memory = Terminal(), Memory.open(config.memory)
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
    wanted = id_list(config.absent)
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


def proof(memory: MemoryStore, gone: Traces, console: Terminal) -> int:
    """Look for erased rows, compare answers, and say what was found; the exit status."""
    from kc.memory.erasure import N_QUERIES, NOT_ERASED, compare_with_rebuilt, prove_absent

    result = prove_absent(memory.path, gone)
    looked = f"{len(gone.ids):,} ids, {len(gone.keys):,} keys, {len(gone.names):,} names"
    where = f"{result.files} files, {result.bytes / 2**20:.1f} MiB"
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
    console.say("what this does not reach:")
    for sentence in NOT_ERASED:
        console.say(f"  {sentence}")
    return 0


@dataclass(frozen=True, kw_only=True)
class RepairConfig(MemoryConfig):
    """Remove files that no manifest names.

    Args:
        dry_run: Say what would be removed, and change nothing.
    """

    dry_run: bool = False


def repair(config: RepairConfig) -> int:
    """`kc memory repair`. Returns the exit status."""
    from kc.commands.console import Terminal
    from kc.memory.disk import Memory

    console = Terminal()
    if config.dry_run:
        done = [f"would remove {name}" for name in Memory.open(config.memory).verify()["orphans"]]
    else:
        done = Memory.repair(config.memory)
    for sentence in done or ["nothing to repair"]:
        console.say(sentence)
    return 0
