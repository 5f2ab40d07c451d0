"""`kc memory`: look into a memory, move it, and take rows out of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from rich.console import Console

from kc.commands.memory_config import MemoryConfig
from kc.commands.memory_selection import FILTERS
from kc.errors import KcError, unknown_name

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
_ACTIONS = {
    **{name: ("memory_look", name) for name in ("stats", "versions", "diff", "search", "explain")},
    "verify": ("memory_proof", "verify"),
    "export": ("memory_files", "export"),
    "import": ("memory_files", "import_"),
    **{name: ("memory_out", name) for name in ("repair", "compact", "remove", "erase")},
    **{name: ("memory_edit", name) for name in ("add", "snapshot", "reweight")},
    "build": ("memory_build", "build"),
    "migrate": ("memory_migrate", "migrate"),
}
"""Action -> module of kc.commands and its function."""


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
    module, name = _ACTIONS[config.action]
    # Loaded when it is asked for: most actions need no torch.
    action: Callable[[MemoryConfig, Console], int] = getattr(importlib.import_module(f"kc.commands.{module}"), name)
    return action(config, console)
