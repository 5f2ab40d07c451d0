"""Answers are those of a memory that never had what is gone, and one that has more is told from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kc.memory import erasure as never
from kc.memory.disk import Memory
from kc.memory.erasure import Comparison, compare_with_rebuilt
from kc.memory.store.table import Table
from kc.types import Rows

NOTHING = np.zeros((0, 8), np.float32)


@pytest.mark.parametrize("way", ["remove", "erase", "compact"])
def test_a_memory_that_forgot(three: Memory, way: str) -> None:
    gone = [0, 7, 12, 29]
    keys = three.keys(gone)
    three.reweight([3, 4], [0.5, 0])
    three.relabel([5], [2])
    _ = three.erase(gone) if way == "erase" else three.remove(gone)
    if way == "compact":
        three.compact(history=False)
    # The four, and the 25 others that have a weight.
    assert compare_with_rebuilt(three, keys) == Comparison(29, True)


@pytest.mark.parametrize("change", ["row", "class", "weight"])
def test_a_difference_is_seen(three: Memory, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    whole = Memory.tables

    def other(self: Memory, at: int | None = None) -> Iterator[Table]:
        first, *rest = whole(self, at)
        if change == "row":
            first = first.take(np.arange(1, len(first)))
        elif change == "class":
            first = replace(first, class_id=first.class_id + (first.ids == 4))
        else:
            first = replace(first, weight=first.weight * np.where(first.ids == 4, 0.5, 1).astype(np.float32))
        yield from (first, *rest)

    monkeypatch.setattr(Memory, "tables", other)
    answer = compare_with_rebuilt(three, NOTHING)
    assert answer == Comparison(30, False)


def test_anonymous_empty_and_large(tmp_path: Path, rows: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch) -> None:
    with Memory.create(tmp_path / "hashed", dim=8, fingerprint="e", anonymous=True) as memory:
        memory.add(rows(6), 0)
        memory.commit(0)
        memory.remove([2])
        assert compare_with_rebuilt(memory, NOTHING) == Comparison(5, True)
        monkeypatch.setattr(never, "MAX_BYTES", 5 * 8 * 4 - 1)
        assert compare_with_rebuilt(memory, NOTHING) is None
        memory.remove(range(6))
        assert compare_with_rebuilt(memory, NOTHING) == Comparison(0, True)
