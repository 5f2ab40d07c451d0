"""What every store, on disk or in Milvus, asks of its callers."""

from __future__ import annotations

import os
from pathlib import Path

from kc.errors import RunError


def check_writer(path: Path, opened: bool, pid: int) -> None:
    """RunError unless the memory is open for writing (`opened`), by this process (`pid` opened it)."""
    if not opened:
        raise RunError(f"{path} is open for reading (or closed): open it with write=True")
    if os.getpid() != pid:
        raise RunError(f"{path}: only the process that opened it writes (a forked one may read)")


def check_task(task: int) -> None:
    """ValueError for a task below 0."""
    if task < 0:
        raise ValueError(f"task must be at least 0, got {task}")


def is_older(task: int, newest: int, n_staged: int) -> bool:
    """Whether a commit of `task` would come before the version of task `newest` (-1: there is none).

    ValueError if rows are staged for it, or if there is no such task.
    """
    if task < newest and n_staged:
        raise ValueError(
            f"task {newest} is already committed, so rows of task {task} would change what it saw: "
            f"call rollback({task - 1}) first"
        )
    if task >= newest:
        check_task(task)
    return task < newest


def check_kind(path: Path, found: tuple[int, bool], dim: int, anonymous: bool) -> None:
    """ValueError if the memory, `found` to have keys of this size and to be anonymous or not, is not what was asked."""
    if found[0] != dim:
        raise ValueError(f"{path} holds keys of {found[0]} values, asked for {dim}")
    if found[1] != anonymous:
        raise ValueError(f"{path} was made with anonymous={found[1]}, which cannot be changed later")
