"""One deletion: how long it takes, and whether the answers are those of a memory that never had the rows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kc.files import temporary_folder
from kc.memory.disk import Memory
from kc.memory.vote.votes import VOTES, vote
from kc.spec import Count
from kc.studies.base import Row
from kc.studies.figures import legend, panels, style_axes
from kc.studies.keys import EXACTLY, Keys, VoteStudy, memory_of
from kc.studies.options import SeededOptions, StudySpec
from kc.types import Float32Array, Int64Array, Neighbours, Rows

DELETIONS = 101
"""Single rows that are taken out of the simulated memory, one by one."""
BLOCK = 100_000
SHOWN = (5, 25, 75, 95)
"""Percentiles of the time of a deletion, beside the median."""


@dataclass(frozen=True)
class DeletionOptions(SeededOptions):
    """Options of deletion.

    Args:
        size: Simulated rows of the timing.
    """

    size: Count = 1_000_000


class Deletion(VoteStudy[DeletionOptions]):
    """Rows of the benchmark: a class, one row, a tenth of the rows; then simulated rows, for the time of a deletion.

    `equal`: scores of all votes and of the search are bitwise those of a memory that never had the rows.
    """

    spec = StudySpec(
        summary="Time of one deletion, and answers as if the rows had never been added.",
        plots="percentiles of the time of one deletion",
        options=DeletionOptions,
    )

    def run(self) -> Figure:
        train, test = self.both()
        classes, counts = np.unique(train.label, return_counts=True)
        rng = np.random.default_rng(self.seeds[0])
        groups = {
            "one row": np.array([int(rng.integers(len(train)))]),
            "the largest class": np.flatnonzero(train.label == classes[counts.argmax()]),
            "a tenth of the rows": np.sort(rng.permutation(len(train))[: max(1, len(train) // 10)]),
        }
        for what, gone in groups.items():
            self.row(what, partial(self.real, train, test, what, gone))
        row = self.row("simulated", partial(simulated, self.options.size, self.options.dim, self.seeds[0]))
        figure, (ax,) = panels(1, width=4.6, height=3)
        ticks = sorted([*SHOWN, 50])
        times = [row["median ms"] if p == 50 else row[f"p{p} ms"] for p in ticks]
        ax.plot(ticks, times, color="#0072b2", marker="o", markersize=4)
        ax.axhline(20, color="#d55e00", linestyle="--", label="20 ms, the paper's bound")
        ax.set_ylim(0)
        legend(ax)
        title = f"one deletion of {row['rows']:,} simulated rows"
        style_axes(ax, title, "percentile of the deletions", "milliseconds")
        return figure

    def real(self, train: Keys, test: Keys, what: str, gone: Int64Array) -> Row:
        """Take rows of the benchmark out, and compare with a memory that never had them."""
        kept = np.setdiff1d(np.arange(len(train)), gone)
        k = self.clamp(self.k, len(kept))
        with memory_of(train.rows()) as memory:
            start = time.perf_counter()
            memory.remove(gone)
            taken = time.perf_counter() - start
            found = memory.search(test.key, k)
        with memory_of(train.take(kept).rows()) as never:
            want = never.search(test.key, k)
        return {
            "what": what, "kind": "real", "rows": len(train), "removed": len(gone), "median ms": 1000 * taken,
            "equal": equal(found, want, kept), "queries": len(test),
        }  # fmt: skip


def equal(found: Neighbours, want: Neighbours, kept: Int64Array) -> bool:
    """Whether both searches give the same rows and bitwise the same scores, and all votes too. `kept`: the id in the
    first memory of row i of the second."""
    classes = np.unique(np.concatenate([found.class_id.ravel(), want.class_id.ravel()]))
    votes = all(bool((vote(found, classes, kind) == vote(want, classes, kind)).all()) for kind in VOTES)
    rows = np.array_equal(found.id, kept[want.id]) and np.array_equal(found.class_id, want.class_id)
    return votes and rows and found.score.tobytes() == want.score.tobytes()


def simulated(size: int, dim: int, seed: int) -> Row:
    """Median time of one deletion of `size` random rows (simulated), and the same comparison after all of them."""
    queries = block(dim, 50, [seed, 1])
    gone = np.sort(np.random.default_rng([seed, 2]).permutation(size)[: min(DELETIONS, size // 2)])
    with temporary_folder() as folder:
        memory = filled(folder / "whole", size, dim, seed, np.zeros(0, np.int64))
        with memory:
            memory.search(queries[:1], 10)
            times = []
            for row in gone:
                start = time.perf_counter()
                memory.remove([int(row)])
                times.append(1000 * (time.perf_counter() - start))
            found = memory.search(queries, 10)
        with filled(folder / "never", size, dim, seed, gone) as never:
            want = never.search(queries, 10)
    same = equal(found, want, np.setdiff1d(np.arange(size), gone))
    return {
        "what": "single rows", "kind": "simulated", "rows": size, "removed": len(gone),
        "median ms": float(np.median(times)), "equal": same, "queries": len(queries),
        "dim": dim, **{f"p{p} ms": float(np.percentile(times, p)) for p in SHOWN},
    }  # fmt: skip


def filled(path: Path, size: int, dim: int, seed: int, without: Int64Array) -> Memory:
    """A memory of `size` random unit rows of 100 classes, but for those `without`."""
    memory = Memory.create(path, dim=dim, fingerprint="simulated")
    memory.configure(EXACTLY)
    for number, first in enumerate(range(0, size, BLOCK)):
        here = np.arange(first, min(first + BLOCK, size))
        keep = ~np.isin(here, without)
        keys = block(dim, len(here), [seed, 3, number])[keep]
        rows = here[keep]
        names = tuple(map(str, rows))
        memory.add(Rows(keys, rows % 100, names, np.zeros(len(rows), np.int64), "simulated"), 0)
    memory.commit(0)
    return memory


def block(dim: int, n: int, seed: list[int]) -> Float32Array:
    """(n, dim) float32 random unit rows."""
    keys = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return np.ascontiguousarray(keys / np.linalg.norm(keys, axis=1, keepdims=True))
