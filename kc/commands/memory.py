"""`kc memory`: look into a memory, check it, fill it, move it, and take rows out of it."""

from __future__ import annotations

from kc.actions import Table

ACTIONS: Table = {
    "stats": ("kc.commands.memory_look:stats", "rows, classes, tasks, size on disk, and how it is searched"),
    "versions": ("kc.commands.memory_look:versions", "the memory after each task"),
    "diff": ("kc.commands.memory_look:diff", "rows that were added, retired, relabelled, reweighted since a task"),
    "search": ("kc.commands.memory_look:search", "the nearest rows of an image (kc explain: and how they vote)"),
    "verify": ("kc.commands.memory_check:verify", "check every file; prove that rows are gone"),
    "repair": ("kc.commands.memory_check:repair", "remove files that nothing names"),
    "build": ("kc.commands.memory_build:build", "fill a memory from a benchmark, or from images and a list of names"),
    "import": ("kc.commands.memory_files:import_", "add the rows of a .npz or .parquet file"),
    "export": ("kc.commands.memory_files:export", "write the rows to a .npz or .parquet file"),
    "migrate": ("kc.commands.memory_migrate:migrate", "a new memory with the keys of another encoder"),
    "snapshot": ("kc.commands.memory_edit:snapshot", "name the present state as the version of a task"),
    "reweight": ("kc.commands.memory_edit:reweight", "give rows a weight, by hand or by pruning"),
    "remove": ("kc.commands.memory_edit:remove", "retire rows; old versions keep them (kc forget: from all versions)"),
    "compact": ("kc.commands.memory_edit:compact", "join segments and drop what is retired"),
}
