"""Rows in RAM as columns, with every distinct name held once: nothing here takes a Python step for each row."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.types import BoolArray, Float32Array, Int32Array, Int64Array


@dataclass(frozen=True, eq=False)
class NameColumn:
    """The name of each row: `codes` (N,) int32 into `names`, which are distinct and may hold some that no row has."""

    codes: Int32Array
    names: Sequence[str]

    @classmethod
    def of(cls, names: Sequence[str]) -> NameColumn:
        """The column of these names (N,), `names` in the order of their first use."""
        distinct = list(dict.fromkeys(names))
        code = dict(zip(distinct, range(len(distinct)), strict=True))
        return cls(np.fromiter(map(code.__getitem__, names), np.int32, len(names)), distinct)

    @classmethod
    def joined(cls, columns: Sequence[NameColumn]) -> NameColumn:
        """One column after the other."""
        distinct = cls.of([name for column in columns for name in column.names])
        ends = np.cumsum([0, *(len(c.names) for c in columns)])
        codes = [distinct.codes[ends[i] : ends[i + 1]][c.codes] for i, c in enumerate(columns)]
        return cls(np.concatenate(codes), distinct.names)

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[str]:
        return map(self.names.__getitem__, self.codes.tolist())

    def __getitem__(self, row: int) -> str:
        return self.names[int(self.codes[row])]

    def take(self, rows: npt.NDArray[Any] | slice) -> NameColumn:
        """The names of the chosen rows."""
        return NameColumn(self.codes[rows], self.names)

    def renamed(self, rename: Callable[[Iterable[str]], Sequence[str]]) -> NameColumn:
        """The column with `rename(names)` instead of `names`."""
        return NameColumn(self.codes, rename(self.names))

    def among(self, wanted: Collection[str]) -> npt.NDArray[np.bool_]:
        """(N,) whether a row's name is one of `wanted`."""
        found = np.fromiter(map(wanted.__contains__, self.names), bool, len(self.names))
        return found[self.codes] if len(found) else np.zeros(0, bool)

    def used(self) -> NameColumn:
        """The same without names that no row has, in the order of their first use."""
        n = len(self.codes)
        first = np.full(len(self.names), n)
        first[self.codes[::-1]] = np.arange(n)[::-1]  # of entries written twice the last one stays
        kept = np.argsort(first, kind="stable")[: int((first < n).sum())]
        code = np.empty(len(self.names), np.int32)
        code[kept] = np.arange(len(kept), dtype=np.int32)
        return NameColumn(code[self.codes], [self.names[i] for i in kept.tolist()])

    def to_bytes(self) -> bytes:
        """The table of `names` as JSON, one a line."""
        # ASCII escapes: a name with an exotic line separator must not split a line.
        lines = json.dumps(list(self.names), separators=("\n", ":"))[1:-1]
        return f"{lines}\n".encode() if self.names else b""


def names_in(table: bytes) -> list[str]:
    """The distinct names in a table that `NameColumn.to_bytes` made. ValueError if it is none."""
    names: list[str] = json.loads("[" + table.decode("ascii").strip("\n").replace("\n", ",") + "]")
    return names


@dataclass(frozen=True)
class Table:
    """Rows in RAM, in one order: `vectors` (N, D), every other column (N,)."""

    vectors: Float32Array
    ids: Int64Array
    class_id: Int64Array
    task: Int64Array
    added: Int64Array
    weight: Float32Array
    segment: Int64Array
    sample: NameColumn
    source: NameColumn

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[Any] | slice) -> Table:
        """The chosen rows: numbers or a mask (copied), or a slice (not copied)."""
        chosen: dict[str, Any] = {
            n: c.take(rows) if isinstance(c, NameColumn) else c[rows] for n, c in vars(self).items()
        }
        return Table(**chosen)


@dataclass(frozen=True)
class RowTable:
    """What is known of rows, in the order asked: who voted. `visible` is False for retired rows."""

    id: Int64Array
    class_id: Int64Array
    weight: Float32Array
    task: Int64Array
    sample_id: tuple[str, ...]
    segment: Int64Array
    source: tuple[str, ...]
    visible: BoolArray

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True)
class Labels:
    """What rows vote for: `id`, `class_id`, `task` (N,) int64 and `weight` (N,) float32."""

    id: Int64Array
    class_id: Int64Array
    task: Int64Array
    weight: Float32Array


def joined(tables: Sequence[Table]) -> Table:
    """Rows of at least one table, one after the other."""
    if len(tables) == 1:
        return tables[0]
    columns: dict[str, Any] = {}
    for name, first in vars(tables[0]).items():
        parts = [getattr(table, name) for table in tables]
        columns[name] = NameColumn.joined(parts) if isinstance(first, NameColumn) else np.concatenate(parts)
    return Table(**columns)


def no_rows() -> Table:
    """A table without a row."""
    numbers, names = np.zeros(0, np.int64), NameColumn.of([])
    weight, vectors = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
    return Table(vectors, numbers, numbers, numbers, numbers, weight, numbers, names, names)
