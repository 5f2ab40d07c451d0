"""Whether a memory answers as one would that never had the rows which are gone."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kc.memory.plan import SearchOptions
from kc.memory.reader import Reader
from kc.memory.rows import Memory
from kc.types import Float32Array

ROOM = 2**30
"""Bytes of keys up to which answers are compared: the rows of the second memory are in RAM until they are committed."""
ASKED = 100
"""Queries at most, and neighbours of each."""


@dataclass(frozen=True)
class Comparison:
    """`queries` that were asked of both memories, and whether all answers are bitwise `equal`."""

    queries: int
    equal: bool


def as_if_never(memory: Reader, gone: Float32Array) -> Comparison | None:
    """Ask a memory, and a new one made of its visible rows alone, for the nearest rows; None beyond `ROOM`.

    Queries are the keys `gone` (N, D), then stored ones at even steps. Compared are ids, scores, classes, weights and
    tasks of the nearest rows by exact search: whatever votes over them is equal too. What is staged is not looked at.
    """
    here = Memory.open(memory.path)
    labels = here.labels()
    if 4 * here.dim * len(labels.id) > ROOM:
        return None
    heard = labels.id[labels.weight > 0]
    if len(heard) == 0:
        return Comparison(0, True)
    asked = gone[:ASKED]
    steps = np.linspace(0, len(heard) - 1, ASKED - len(asked)).astype(np.int64)
    queries = np.concatenate([asked, here.keys(np.unique(heard[steps]))])
    exactly = SearchOptions(index="exact")
    here.configure(exactly)
    with tempfile.TemporaryDirectory() as folder:
        path, salt = Path(folder) / "memory", here._manifest.salt
        with Memory._create(path, here.dim, here.fingerprint, None, salt) as never:
            never.merge(here)
            never.commit(int(labels.task.max()))
            never.configure(exactly)
            found, want = (m.search(queries, ASKED) for m in (here, never))
    same = np.array_equal(found.id, labels.id[want.id]) and all(
        getattr(found, name).tobytes() == getattr(want, name).tobytes()
        for name in ("score", "class_id", "weight", "task")
    )
    return Comparison(len(queries), same)
