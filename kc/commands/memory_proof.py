"""`kc memory verify`, and the proof that what was erased is gone."""

from __future__ import annotations

import numpy as np
from rich.console import Console

from kc.commands.memory_config import MemoryConfig
from kc.commands.memory_files import read
from kc.commands.memory_selection import id_list
from kc.errors import KcError
from kc.memory.base import MemoryStore
from kc.memory.disk import Memory
from kc.memory.erasure import N_QUERIES, NOT_ERASED, Traces, compare_with_rebuilt, prove_absent, traces_of_export


def verify(config: MemoryConfig, console: Console) -> int:
    """Check every file; with --absent prove that rows are gone."""
    memory = Memory.open(config.memory)
    report = memory.verify()
    console.print(
        f"sound: {report['files']} files, {report['bytes'] / 2**20:.1f} MiB, {report['rows']:,} rows, as written",
        highlight=False,
        soft_wrap=True,
    )
    for name in report["orphans"]:
        console.print(f"left over, named by nothing: {name} (kc memory repair removes it)", soft_wrap=True)
    if config.absent is None:
        if config.first is not None:
            raise KcError("kc memory verify DIR FILE needs --absent IDS: the rows of the export that should be gone")
        return 0
    wanted = id_list(config.absent)
    if config.first is not None:
        header, tables = read(config.first)
        if header.dim != memory.dim:
            raise KcError(f"{config.first} holds keys of {header.dim} values, {config.memory} of {memory.dim}")
        try:
            gone = traces_of_export(tables, memory, wanted)
        except ValueError as error:
            raise KcError(f"{config.first}: {error}") from error
    else:
        gone = Traces(wanted, np.zeros((0, memory.dim), np.float32))
    status = proof(memory, gone, console)
    if config.first is None:
        console.print(
            "only ids were looked for: the bytes of a key are known to an export made before "
            "(kc memory verify DIR FILE --absent IDS), or to the erase itself, which looks for them",
            soft_wrap=True,
        )
    return status


def proof(memory: MemoryStore, gone: Traces, console: Console) -> int:
    """Look for erased rows, compare answers, and say what was found; the exit status."""
    result = prove_absent(memory.path, gone)
    looked = f"{len(gone.ids):,} ids, {len(gone.keys):,} keys, {len(gone.names):,} names"
    where = f"{result.files} files, {result.bytes / 2**20:.1f} MiB"
    if not result:
        console.print(f"still there: of {looked} in {where}", style="bold", highlight=False, soft_wrap=True)
        for sentence in result.found:
            console.print(f"  {sentence}", highlight=False, markup=False, soft_wrap=True)
        return 1
    console.print(f"absent: {looked} are in none of {where}", highlight=False, soft_wrap=True)
    answers = compare_with_rebuilt(memory, gone.keys)
    if answers is not None and not answers.equal:
        console.print("answers differ from those of a memory that never had the rows", style="bold", soft_wrap=True)
        return 1
    console.print(
        "answers were not compared: the memory is too large to make a second one"
        if answers is None
        else f"answers to {answers.queries} queries are bitwise those of a memory that never had the rows: ids, "
        f"scores, classes and weights of the {N_QUERIES} nearest, and so every vote",
        highlight=False,
        soft_wrap=True,
    )
    console.print("what this does not reach:")
    for sentence in NOT_ERASED:
        console.print(f"  {sentence}", highlight=False, soft_wrap=True)
    return 0
