"""Columns of rows in RAM."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kc.memory.store.table import NameColumn, Table, joined, names_in, no_rows

NAMES = ["b", "a", "b", "", "日本\u2028x", 'q"\\\n', "\udc80", "a"]


def table(names: list[str], first: int = 0) -> Table:
    n = len(names)
    numbers = np.arange(first, first + n)
    return Table(
        vectors=np.repeat(numbers[:, None], 3, axis=1).astype(np.float32),
        ids=numbers,
        class_id=10 + numbers,
        task=np.zeros(n, np.int64),
        added=np.ones(n, np.int64),
        weight=np.full(n, 0.5, np.float32),
        segment=20 + numbers,
        sample=NameColumn.of(names),
        source=NameColumn.of(["s"] * n),
    )


def test_names_are_held_once_in_the_order_of_first_use() -> None:
    column = NameColumn.of(NAMES)
    assert column.names == list(dict.fromkeys(NAMES))
    assert column.codes.tolist() == [0, 1, 0, 2, 3, 4, 5, 1]
    assert list(column) == NAMES
    assert column[4] == "日本\u2028x"
    assert len(NameColumn.of([])) == 0


def test_names_in_bytes() -> None:
    """One JSON string a line, whatever the name holds; the bytes that a loop over the names would write."""
    column = NameColumn.of(NAMES)
    data = column.to_bytes()
    assert data == "".join(json.dumps(name) + "\n" for name in column.names).encode()
    assert names_in(data) == column.names
    assert NameColumn.of([]).to_bytes() == b""
    assert names_in(b"") == []
    for wrong in (b'"a"\n"b', b"\xff\n"):
        with pytest.raises(ValueError, match=r".+"):
            names_in(wrong)


def test_a_part_can_drop_the_names_of_the_rest() -> None:
    part = NameColumn.of(["gone", "x", "y", "x", "z"]).take(np.array([4, 1, 3]))
    assert "gone" in part.names
    kept = part.used()
    assert kept.names == ["z", "x"]
    assert kept.codes.tolist() == [0, 1, 1]
    assert kept.codes.dtype == np.int32
    assert NameColumn.of(["a"]).take(slice(0, 0)).used().names == []


def test_among_and_renamed() -> None:
    column = NameColumn.of(["a", "b", "a"])
    assert column.among({"a", "nowhere"}).tolist() == [True, False, True]
    assert NameColumn.of([]).among({"a"}).tolist() == []
    asked: list[str] = []
    renamed = column.renamed(lambda names: [name.upper() for name in names if not asked.append(name)])
    assert list(renamed) == ["A", "B", "A"]
    assert asked == ["a", "b"]  # once a name, not once a row


def test_tables_are_joined_and_cut() -> None:
    both = joined([table(["a", "b"]), table(["b", "c", "a"], first=2)])
    assert list(both.sample) == ["a", "b", "b", "c", "a"]
    assert both.sample.names == ["a", "b", "c"]
    assert both.ids.tolist() == both.vectors[:, 2].tolist() == [0, 1, 2, 3, 4]
    for rows in (np.array([1, 3]), np.array([False, True, False, True, False]), slice(1, 4, 2)):
        part = both.take(rows)
        assert (part.ids.tolist(), list(part.sample), list(part.source)) == ([1, 3], ["b", "c"], ["s", "s"])
        assert part.segment.tolist() == [21, 23]
    assert len(joined([no_rows(), no_rows()])) == 0
