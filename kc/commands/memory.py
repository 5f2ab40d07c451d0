"""`kc memory`: look into a memory, move it, and take rows out of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from kc.commands.memory_config import MemoryConfig
from kc.commands.memory_selection import FILTERS, SHOWN, class_names, id_list, run_settings, selected, task_index
from kc.errors import KcError, unknown_name
from kc.memory import exchange
from kc.memory.absence import CANNOT_UNDO, Traces, prove_absent, traces, traces_in
from kc.memory.never import ASKED, as_if_never
from kc.memory.reader import Reader
from kc.memory.rows import Memory
from kc.types import Int64Array

FILES = {
    "export": "FILE: say which .npz or .parquet file to write to",
    "import": "FILE: say which .npz or .parquet file to read",
}
FILES |= dict.fromkeys(("search", "explain"), "IMAGE: say which image")
FILES |= {"add": "FOLDER: say which folder of images"}
FILES |= {"migrate": "NEW: say where the new memory is made"}
TAKES = {
    "stats": {"at"},
    "verify": {"first", "absent"},
    "repair": {"dry_run"},
    "versions": set(),
    "diff": {"first", "second"},
    "search": {"first", "at", "k", "encoder", "point", "data_root"},
    "explain": {"first", "second", "at", "k", "encoder", "point", "data_root"},
    "export": {"first", "at", "dry_run"},
    "import": {"first", "dry_run"},
    "compact": {"drop_history", "dry_run"},
    "remove": {*FILTERS, "dry_run", "strict"},
    "erase": {*FILTERS, "dry_run", "strict"},
    "build": {"encoder", "data_root", "keys", "proposals", "purity", "images", "names", "fallback", "limit_images"},
    "add": {"first", "class_", "source", "task", "encoder", "dry_run"},
    "snapshot": {"task", "dry_run"},
    "reweight": {*FILTERS, "weight", "prune", "dry_run", "strict"},
    "migrate": {"first", "to", "fit", "encoder", "data_root", "dry_run"},
}
"""Action -> the options that it reads, beside the memory and --benchmark."""


def run_memory(config: MemoryConfig, console: Console | None = None) -> int:
    """Do what `config` asks for. Returns the exit status: 1 where rows that should be gone are there, or where
    `strict` is set and no row was met.

    Raises KcError for what a user can act on; then nothing was changed.
    """
    console = console or Console(markup=False)
    if config.action not in TAKES:
        raise unknown_name("action", config.action, TAKES)
    default = MemoryConfig(config.action, config.memory)
    for name in vars(config):
        if name in ("action", "memory", "benchmark") or name in TAKES[config.action]:
            continue
        if getattr(config, name) != getattr(default, name):
            said = f"{getattr(config, name)!r}" if name in ("first", "second") else "--" + name.strip("_")
            raise KcError(f"kc memory {config.action} does not take {said.replace('_', '-')}")
    if config.action in FILES and config.first is None:
        raise KcError(f"kc memory {config.action} DIR {FILES[config.action]}")
    return _ACTIONS[config.action](config, console)


# -- actions that only look --------------------------------------------------------------------------------------------


def _stats(config: MemoryConfig, console: Console) -> int:
    memory = Memory.open(config.memory)
    names, facts = class_names(memory, config.benchmark), memory.stats()
    at = None if config.at is None else task_index(memory, config.at)
    labels = memory.labels(at)
    extra_rows = facts["rows_total"] - facts["rows"]
    table = _facts()
    table.add_row("memory", str(config.memory) + ("" if at is None else f", as it was after task {config.at}"))
    table.add_row("rows", f"{len(labels.id):,}" + (f" and {extra_rows:,} retired" if extra_rows and at is None else ""))
    table.add_row("classes", str(len(np.unique(labels.class_id))))
    table.add_row("tasks", _numbers(task + 1 for task in facts["versions"]))
    table.add_row("names of samples", "hashed (anonymous)" if memory.anonymous else "kept")
    table.add_row("keys", f"{facts['dim']} values of encoder {facts['fingerprint']}")
    table.add_row("on disk", f"{facts['bytes'] / 2**20:.1f} MiB")
    table.add_row("search", f"{facts['plan']}: {facts['reason']}")
    hidden = int((labels.weight == 0).sum())
    if hidden:
        table.add_row("weight 0", f"{hidden:,} rows, which no search finds")
    console.print(table)
    _by_class(labels.class_id, labels.task, names, console)
    return 0


def _versions(config: MemoryConfig, console: Console) -> int:
    memory = Memory.open(config.memory)
    table = Table("after task", "rows", "added", "retired", "relabelled", "reweighted")
    previous: int | None = None
    for info in memory.versions():
        if previous is None:
            table.add_row(str(info.task + 1), f"{info.rows:,}", f"{info.rows:,}", "–", "–", "–")
        else:
            table.add_row(str(info.task + 1), f"{info.rows:,}", *_counts(memory, previous, info.task))
        previous = info.task
    if previous is not None and memory.diff(previous):
        table.add_row("now", f"{len(memory):,}", *_counts(memory, previous, None))
    console.print(table)
    return 0


def _counts(memory: Reader, a: int, b: int | None) -> list[str]:
    change = memory.diff(a, b)
    return [f"{len(ids):,}" for ids in (change.added, change.retired, change.relabelled, change.reweighted)]


def _diff(config: MemoryConfig, console: Console) -> int:
    memory = Memory.open(config.memory)
    if config.first is None:
        raise KcError("kc memory diff DIR TASK [TASK]: say from which task on")
    a = task_index(memory, config.first)
    b = None if config.second is None else task_index(memory, config.second)
    names, change = class_names(memory, config.benchmark), memory.diff(a, b)
    console.print(f"from task {a + 1} to {'now' if b is None else f'task {b + 1}'}:", highlight=False)
    if not change:
        console.print("nothing differs")
        return 0
    table = Table("", "rows", "classes", "ids")
    for what, ids in (("added", change.added), ("retired", change.retired), ("reweighted", change.reweighted)):
        if len(ids):
            classes = np.unique(memory.rows_of(ids).class_id)
            table.add_row(what, f"{len(ids):,}", _first(_name(c, names) for c in classes), _spans(ids))
    pairs = np.stack([change.class_before, change.class_after], axis=1)
    for before, after in np.unique(pairs, axis=0):
        ids = change.relabelled[(pairs == (before, after)).all(axis=1)]
        table.add_row("relabelled", f"{len(ids):,}", f"{_name(before, names)} to {_name(after, names)}", _spans(ids))
    console.print(table)
    return 0


def _search(config: MemoryConfig, console: Console) -> int:
    from kc.commands.explain import neighbour_table, question, search  # torch: the other actions start without it

    k = 10 if config.k is None else config.k
    if k < 1:
        raise KcError(f"--k {k}: must be at least 1")
    memory = Memory.open(config.memory)
    settings = {"benchmark": None, "encoder": None, **run_settings(config.memory), "image": config.first}
    names = ("benchmark", "data_root", "encoder", "point")
    settings |= {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    asked = question(memory, settings)[1]
    found = search(memory, asked, k, None if config.at is None else task_index(memory, config.at))
    if found.id.shape[1] < k:
        console.print(f"k {k} is clamped to the {found.id.shape[1]} rows that there are", highlight=False)
    console.print(neighbour_table(found, memory.rows_of(found.id[0]), class_names(memory, config.benchmark)))
    return 0


def _explain(config: MemoryConfig, console: Console) -> int:
    from kc.commands.explain import run_explain  # torch, as above
    from kc.commands.explain_config import ExplainConfig

    given = {
        name: getattr(config, name) for name in ("memory", "benchmark", "data_root", "encoder", "k", "at", "point")
    }
    out = None if config.second is None else Path(config.second)
    return run_explain(ExplainConfig(str(config.first), **given, out=out), console)


def _verify(config: MemoryConfig, console: Console) -> int:
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
        header, tables = _read(config.first)
        if header.dim != memory.dim:
            raise KcError(f"{config.first} holds keys of {header.dim} values, {config.memory} of {memory.dim}")
        try:
            gone = traces_in(tables, memory, wanted)
        except ValueError as error:
            raise KcError(f"{config.first}: {error}") from error
    else:
        gone = Traces(wanted, np.zeros((0, memory.dim), np.float32))
    status = _proof(memory, gone, console)
    if config.first is None:
        console.print(
            "only ids were looked for: the bytes of a key are known to an export made before "
            "(kc memory verify DIR FILE --absent IDS), or to the erase itself, which looks for them",
            soft_wrap=True,
        )
    return status


def _proof(memory: Reader, gone: Traces, console: Console) -> int:
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
    answers = as_if_never(memory, gone.keys)
    if answers is not None and not answers.equal:
        console.print("[bold]answers differ[/bold] from those of a memory that never had the rows", soft_wrap=True)
        return 1
    console.print(
        "answers were not compared: the memory is too large to make a second one"
        if answers is None
        else f"answers to {answers.queries} queries are bitwise those of a memory that never had the rows: ids, "
        f"scores, classes and weights of the {ASKED} nearest, and so every vote",
        highlight=False,
        soft_wrap=True,
    )
    console.print("what this does not reach:")
    for sentence in CANNOT_UNDO:
        console.print(f"  {sentence}", highlight=False, soft_wrap=True)
    return 0


# -- actions that change or write --------------------------------------------------------------------------------------


def _repair(config: MemoryConfig, console: Console) -> int:
    if config.dry_run:
        done = [f"would remove {name}" for name in Memory.open(config.memory).verify()["orphans"]]
    else:
        done = Memory.repair(config.memory)
    for sentence in done or ["nothing to repair"]:
        console.print(sentence, highlight=False, soft_wrap=True)
    return 0


def _export(config: MemoryConfig, console: Console) -> int:
    memory, path = Memory.open(config.memory), Path(str(config.first))
    at = None if config.at is None else task_index(memory, config.at)
    if config.dry_run:
        console.print(f"would write {len(memory.labels(at).id):,} rows to {path}", highlight=False, soft_wrap=True)
        return 0
    try:
        n_rows = memory.export(path, at)
    except ValueError as error:
        raise KcError(str(error)) from error
    size = path.stat().st_size / 2**20
    console.print(f"written: {path}, {n_rows:,} rows, {size:.1f} MiB", highlight=False, soft_wrap=True)
    console.print("no later erase reaches that file", highlight=False)
    return 0


def _import(config: MemoryConfig, console: Console) -> int:
    path = Path(str(config.first))
    header, tables = _read(path)
    exists = (config.memory / "MANIFEST").exists()
    if not exists:
        if not config.dry_run:
            Memory.create_from(config.memory, path).close()
        done = "would make" if config.dry_run else "made"
        console.print(f"{done} {config.memory} of {header.rows:,} rows", highlight=False, soft_wrap=True)
        return 0
    with Memory.open(config.memory, write=True) as memory:
        before = len(memory)
        try:
            n_new = memory.import_rows(path)
        except ValueError as error:
            raise KcError(str(error)) from error
        tasks = [v.task for v in memory.versions()] + [int(t.task.max()) for t in tables if len(t)]
        if not config.dry_run and n_new:
            memory.commit(max(tasks))
        done = "would add" if config.dry_run else "added"
        console.print(
            f"{done} {n_new:,} of {header.rows:,} rows; the others were there already", highlight=False, soft_wrap=True
        )
        console.print(f"rows: {before:,} before, {before + n_new:,} after", highlight=False)
    return 0


def _read(path: str | Path) -> tuple[exchange.Header, Sequence[Any]]:
    try:
        return exchange.read(Path(path))
    except ValueError as error:
        raise KcError(str(error)) from error


def _compact(config: MemoryConfig, console: Console) -> int:
    before = Memory.open(config.memory)
    segments, size = _segments(config.memory), before.stats()["bytes"]
    if config.dry_run:
        dropped = before.stats()["rows_total"] - len(before) if config.drop_history else 0
        versions = max(len(before.versions()) - 1, 0) if config.drop_history else 0
        console.print(
            f"would join up to {segments} segments, drop {dropped:,} retired rows and {versions} old versions",
            highlight=False,
            soft_wrap=True,
        )
        return 0
    with Memory.open(config.memory, write=True) as memory:
        if not memory.compact(history=not config.drop_history):
            console.print("nothing to compact")
            return 0
        now = memory.stats()
        console.print(
            f"segments: {segments} before, {_segments(config.memory)} after; "
            f"{size / 2**20:.1f} MiB before, {now['bytes'] / 2**20:.1f} MiB after; {len(memory):,} rows",
            highlight=False,
            soft_wrap=True,
        )
    return 0


def _build(config: MemoryConfig, console: Console) -> int:
    from kc.commands.memory_build import build  # torch: the other actions start without it

    return build(config, console)


def _segments(memory: Path) -> int:
    return sum(1 for _ in (memory / "segments").glob("*"))


def _remove(config: MemoryConfig, console: Console) -> int:
    return _take_out(config, console, erase=False)


def _erase(config: MemoryConfig, console: Console) -> int:
    return _take_out(config, console, erase=True)


def _take_out(config: MemoryConfig, console: Console, erase: bool) -> int:
    with Memory.open(config.memory, write=not config.dry_run) as memory:
        names = class_names(memory, config.benchmark)
        # Erasing reaches rows that were retired before.
        ids = selected(memory, config, names, retired=erase)
        if len(ids) == 0:
            console.print("no row meets the filters: nothing to do")
            return 1 if config.strict else 0
        before, rows = len(memory), memory.rows_of(ids)
        n_visible = int(rows.visible.sum())
        done = ("erased" if erase else "removed") if not config.dry_run else f"would {config.action}"
        retired = f", {len(ids) - n_visible:,} of them retired before" if n_visible < len(ids) else ""
        left = ", ".join(
            f"{n:,} {word}{'s' * (n != 1)}"
            for word, n in (
                ("sample", len(set(rows.sample_id))),
                ("source", len(set(rows.source))),
                ("task", len(np.unique(rows.task))),
            )
        )
        gone = traces(memory, ids) if erase and not config.dry_run else None
        if not config.dry_run:
            _ = memory.erase(ids) if erase else memory.remove(ids)
        console.print(f"{done} {len(ids):,} rows{retired}, of {left}", highlight=False, soft_wrap=True)
        _by_class(rows.class_id, rows.task, names, console)
        console.print(f"rows: {before:,} before, {before - n_visible:,} after", highlight=False)
        if not erase:
            tense = "would still show" if config.dry_run else "still show"
            console.print(
                f"versions committed before {tense} them, and their bytes stay: kc memory erase is rid of both",
                highlight=False,
                soft_wrap=True,
            )
        return 0 if gone is None else _proof(memory, gone, console)


# -- tables ------------------------------------------------------------------------------------------------------------


def _facts() -> Table:
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _by_class(class_id: Int64Array, task: Int64Array, names: Mapping[int, str], console: Console) -> None:
    table = Table("class", "id", "rows", "tasks")
    ids, counts = np.unique(class_id, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    for i in order[:SHOWN]:
        of_class = np.unique(task[class_id == ids[i]]) + 1
        table.add_row(names.get(int(ids[i]), "–"), str(ids[i]), f"{counts[i]:,}", _numbers(of_class.tolist()))
    console.print(table)
    if len(ids) > SHOWN:
        rest = int(counts[order[SHOWN:]].sum())
        console.print(f"and {len(ids) - SHOWN} smaller classes with {rest:,} rows", highlight=False)


def _name(class_id: int, names: Mapping[int, str]) -> str:
    return names.get(int(class_id), str(int(class_id)))


def _first(words: Iterable[str]) -> str:
    found = list(words)
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")


def _numbers(numbers: Iterable[int]) -> str:
    return _spans(np.fromiter(numbers, np.int64)) or "none"


def _spans(ids: Int64Array) -> str:
    """Ascending numbers with runs joined: 0-3, 7."""
    if len(ids) == 0:
        return ""
    runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
    return _first(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _of(module: str, name: str) -> Callable[[MemoryConfig, Console], int]:
    """An action of another module, which is loaded when it is asked for: most actions need no torch."""

    def action(config: MemoryConfig, console: Console) -> int:
        done: int = getattr(importlib.import_module(f"kc.commands.{module}"), name)(config, console)
        return done

    return action


_ACTIONS: dict[str, Callable[[MemoryConfig, Console], int]] = {
    "stats": _stats,
    "verify": _verify,
    "repair": _repair,
    "versions": _versions,
    "diff": _diff,
    "search": _search,
    "explain": _explain,
    "export": _export,
    "import": _import,
    "compact": _compact,
    "remove": _remove,
    "erase": _erase,
    "build": _build,
    "add": _of("memory_edit", "add"),
    "snapshot": _of("memory_edit", "snapshot"),
    "reweight": _of("memory_edit", "reweight"),
    "migrate": _of("memory_migrate", "migrate"),
}
