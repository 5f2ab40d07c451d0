"""Seeded rows and small memories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kc.memory.disk import Memory
from kc.types import Rows

DIM = 8


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def make_rows(n: int, class_id: int | list[int] = 0, prefix: str = "s", seed: int = 0, source: str = "a") -> Rows:
    """`n` random unit rows; sample names are prefix + number, segment 0."""
    keys = unit(np.random.default_rng(seed).normal(size=(n, DIM)))
    classes = np.broadcast_to(np.asarray(class_id, np.int64), (n,)).copy()
    return Rows(keys, classes, tuple(f"{prefix}{i}" for i in range(n)), np.zeros(n, np.int64), source)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fsync: power does not fail in these tests (those that kill processes start their own)."""
    monkeypatch.setattr("kc.memory.store.files.os.fsync", lambda fd: None)


@pytest.fixture
def rows() -> Callable[..., Rows]:
    return make_rows


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    """An empty memory, open for writing."""
    with Memory.create(tmp_path / "memory", dim=DIM, fingerprint="enc:1") as m:
        yield m


@pytest.fixture
def three(memory: Memory) -> Memory:
    """Three tasks of ten rows; task t has class t; ids 10t..10t+9; sources a, b, c."""
    for t in range(3):
        memory.add(make_rows(10, t, prefix=f"t{t}-", seed=t, source="abc"[t]), t)
        assert memory.commit(t) == 10
    return memory
