"""`kc forget`: erase a name, or rows, from every version of a memory, and prove it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from kc.actions import BY_PLACE, FLAG
from kc.commands.console import Terminal
from kc.commands.memory import RowsConfig, by_class, class_names, opened, selected, summary_of
from kc.errors import KcError


@dataclass(frozen=True, kw_only=True)
class ForgetConfig(RowsConfig):
    """Erase a name and every row of it, or the rows that meet all filters, from every version and file of a memory and
    from the copies that kc made, and prove that they are gone; exit with 1 where something was still found.

    Args:
        name: What is to be forgotten, with its name; left out: the rows that the filters choose.
        memory: Folder of the memory; that of a run is RUN/methods/knn-s0/memory.
        benchmark: Benchmark whose names the classes have, where the memory and its run do not say.
        keep_exports: Leave the rows in files that kc memory export wrote, and name them.
    """

    name: Annotated[str | None, BY_PLACE] = None
    memory: Annotated[Path, FLAG]
    benchmark: str | None = None
    keep_exports: bool = False


def run(config: ForgetConfig) -> int:
    """`kc forget`. Returns the exit status."""
    filters = (config.ids, config.class_, config.source, config.task, config.sample)
    if (config.name is None) == (not any(f is not None for f in filters)):
        raise KcError("say what is forgotten: NAME, or rows by --ids, --class, --source, --task or --sample")
    from kc.commands.memory_check import proof
    from kc.memory.copies import erase_copies
    from kc.predict.edit import erase, name_id

    console = Terminal()
    with opened(config.memory, write=not config.dry_run) as memory:
        names = class_names(memory, config.benchmark)
        if config.name is None:
            # Erasing reaches rows that were retired before.
            ids, forgotten = selected(memory, config, names, retired=True), None
        else:
            forgotten = name_id(memory, config.name)
            ids = memory.ids(class_id=[forgotten], retired=True)
        if len(ids) == 0 and forgotten is None:
            console.say("no row meets the filters: nothing to do")
            return 1 if config.strict else 0
        before, rows = len(memory), memory.rows_of(ids)
        gone = None if config.dry_run else erase(memory, ids, forgotten)
        name = "" if config.name is None else f"the name {config.name} and "
        console.say(f"{'would erase' if config.dry_run else 'erased'} {name}{summary_of(rows)}")
        by_class(rows.class_id, rows.task, names, console)
        console.say(f"rows: {before:,} before, {before - int(rows.visible.sum()):,} after")
        if gone is None:
            return 0
        return proof(memory, gone, console, erase_copies(config.memory, gone, config.keep_exports))
