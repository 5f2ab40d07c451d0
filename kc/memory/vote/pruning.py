"""The memory against itself, each row left out of its own search: pruning and label noise (arXiv 2408.08172).

One table serves them all; the functions over it are pure. A row is left out by its id, never by its distance: of two
equal rows each finds the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kc.memory.base import MemoryStore
from kc.memory.store import files
from kc.types import BoolArray, Float32Array, Int64Array, Neighbours

BLOCK_ROWS = 4_096
_RECORD = np.dtype([("id", np.int64), ("score", np.float32)])


@dataclass(frozen=True)
class NeighbourTable:
    """The k nearest others of every row that a search could find (visible, weight above 0).

    `id`, `class_id`, `task` (N,) int64 and `weight` (N,) float32 are the rows', ids ascending; `neighbour_id` (N, k)
    int64 and `score` (N, k) float32 cosines of their neighbours, nearest first, ties by lowest id. k is clamped to
    N - 1.
    """

    id: Int64Array
    class_id: Int64Array
    task: Int64Array
    weight: Float32Array
    neighbour_id: Int64Array
    score: Float32Array

    def __len__(self) -> int:
        return len(self.id)

    @cached_property
    def position(self) -> Int64Array:
        """(N, k) row of the table that each neighbour is."""
        return np.searchsorted(self.id, self.neighbour_id)

    def neighbours(self) -> Neighbours:
        """The table as the result of a search, for votes that are calibrated without held-out data."""
        at = self.position
        return Neighbours(self.neighbour_id, self.score, self.class_id[at], self.weight[at], self.task[at])

    def wrong(self, k: int) -> BoolArray:
        """(N, k) whether a neighbour carries another class than the row. ValueError if the table has fewer than k."""
        width = self.neighbour_id.shape[1]
        if k < 1 or (k > width and width < len(self) - 1):
            raise ValueError(f"k must lie in [1, {width}], the neighbours of this table, got {k}")
        wrong: BoolArray = self.class_id[self.position[:, :k]] != self.class_id[:, None]
        return wrong


def leave_one_out(memory: MemoryStore, k: int, at: int | None = None, block_rows: int = BLOCK_ROWS) -> NeighbourTable:
    """Search every row of a memory, now or at the version of task `at`, in all others.

    Goes `block_rows` rows at a time. Where the memory is open for writing, finished blocks are kept among its derived
    files: a call that was interrupted goes on where it stopped, and one that is repeated reads. ValueError for k or
    block_rows below 1.
    """
    if k < 1 or block_rows < 1:
        raise ValueError(f"k and block_rows must be at least 1, got {k} and {block_rows}")
    rows = memory.labels(at)
    found = rows.weight > 0
    ids = rows.id[found]
    k = min(k, max(len(ids) - 1, 0))
    record = np.zeros((len(ids), k), _RECORD)
    folder = memory.derived("neighbours", at)
    for first in range(0, len(ids) if k else 0, block_rows):
        name, block = f"k{k}-b{block_rows}-{first:012d}", ids[first : first + block_rows]
        part = None if folder is None else files.read_sealed(folder, name)
        if part is None:
            nearest = memory.search(memory.keys(block), k, at=at, exclude_ids=block)
            part = np.zeros(nearest.id.shape, _RECORD)
            part["id"], part["score"] = nearest.id, nearest.score
            if folder is not None:
                files.write_sealed(folder, name, part)
        record[first : first + block_rows] = part
    return NeighbourTable(
        ids,
        rows.class_id[found],
        rows.task[found],
        rows.weight[found],
        np.ascontiguousarray(record["id"]),
        np.ascontiguousarray(record["score"]),
    )


def wrong_votes(table: NeighbourTable, k: int) -> Int64Array:
    """v (N,): how often each row was among the k nearest of a row of another class."""
    wrong = table.wrong(k)
    votes: Int64Array = np.bincount(table.position[:, : wrong.shape[1]][wrong], minlength=len(table))
    return votes


def disagreement(table: NeighbourTable, k: int) -> Int64Array:
    """(N,) how many of each row's k nearest carry another class: near k, its label is likely wrong."""
    counts: Int64Array = np.count_nonzero(table.wrong(k), axis=1)
    return counts


def hard(table: NeighbourTable, v_max: int = 128, k: int = 100) -> Float32Array:
    """Factor (N,) of each row's weight under hard pruning: 0 where v >= v_max, else 1.

    v is counted over k neighbours; the defaults are the paper's. `memory.reweight(table.id, table.weight * factor)`.
    """
    if v_max < 1:
        raise ValueError(f"v_max must be at least 1, got {v_max}")
    return (wrong_votes(table, k) < v_max).astype(np.float32)


def soft(table: NeighbourTable, d: float = 1.75, c: float = 1.0, k: int = 10) -> Float32Array:
    """Factor (N,) of each row's weight under soft pruning: g = d / (c + v), and 1 where v = 0.

    v is counted over k neighbours; the defaults are the paper's. ValueError for d or c that is not above 0.
    """
    if not (d > 0 and c > 0):
        raise ValueError(f"d and c must be above 0, got {d} and {c}")
    v = wrong_votes(table, k)
    return np.where(v > 0, d / (c + v), 1.0).astype(np.float32)
