"""Rows kept against accuracy: hard and soft pruning, a greedy k-centre coreset, and rows at random."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import product

import numpy as np
from matplotlib.figure import Figure

from kc.memory.search.spaces import k_center_greedy
from kc.memory.vote.evaluation import accuracy_gain, first_k, is_correct
from kc.memory.vote.pruning import NeighbourTable, hard, leave_one_out, soft
from kc.report.style import INK, looks
from kc.studies.base import Row, column
from kc.studies.figures import curve, legend, log_axes, panels, style_axes
from kc.studies.keys import Keys, VoteStudy, memory_of
from kc.studies.options import SeededOptions, StudySpec
from kc.types import BoolArray, Float32Array

THRESHOLDS = (128, 64, 32, 16, 8, 4, 2, 1)
SHARES = (0.75, 0.5, 0.25, 0.1, 0.05)
KINDS = ("plurality", "softmax", "rank")
LOO_K = 100
"""Neighbours over which hard pruning counts wrong votes; the paper's. Soft pruning counts over 10."""
FAMILIES = ("hard", "k-centre", "random", "soft")


class Pruning(VoteStudy[SeededOptions]):
    """A row a way of pruning, vote and k: rows kept, accuracy, and its change against the whole memory with a 95 %
    interval of the paired differences."""

    spec = StudySpec(
        summary="Rows kept against accuracy: hard, soft, greedy k-centre, random.",
        plots="accuracy of the rank vote at the first k against the rows kept",
        paper="arXiv 2408.08172",
        options=SeededOptions,
    )

    def run(self) -> Figure:
        train, test = self.both()
        ways = self.ways(train)
        ks = sorted(self.ks)

        @cache
        def right(way: str) -> dict[tuple[str, int], BoolArray]:
            with memory_of(train.rows()) as memory:
                memory.reweight(np.arange(len(train)), ways[way]())
                found = memory.search(test.key, self.clamp(ks[-1], len(train)))
            pairs = product(KINDS, ks)
            return {(kind, k): is_correct(first_k(found, k), test.label, kind, **self.votes) for kind, k in pairs}

        def row(way: str, kind: str, k: int) -> Row:
            factor = ways[way]()
            if not (factor > 0).any():
                return {"pruning": way, "vote": kind, "k": k, "kept": 0}
            now = right(way)[kind, k]
            change, low, high = accuracy_gain(right("none")[kind, k], now)
            return {
                "pruning": way, "vote": kind, "k": k, "kept": int((factor > 0).sum()),
                "accuracy": 100 * float(now.mean()), "change": 100 * change, "low": 100 * low, "high": 100 * high,
            }  # fmt: skip

        for way, kind, k in product(ways, KINDS, ks):
            self.row(f"{way} {kind} {k}", partial(row, way, kind, k))
        return self.draw()

    def ways(self, train: Keys) -> dict[str, Callable[[], Float32Array]]:
        """Name of a way of pruning -> factor (N,) on the weight of each row."""
        n = len(train)

        @cache
        def table() -> NeighbourTable:
            with memory_of(train.rows()) as memory:
                return leave_one_out(memory, LOO_K)

        @cache
        def order() -> Float32Array:
            """Rank of each row in the order in which the coreset takes them."""
            rank = np.empty(n, np.float32)
            rank[k_center_greedy(train.key, n)] = np.arange(n)
            return rank

        def pruned(threshold: int) -> Float32Array:
            return hard(table(), threshold, min(LOO_K, n - 1))

        def first(kept: int) -> Float32Array:
            return (order() < kept).astype(np.float32)

        def some(kept: int, seed: int) -> Float32Array:
            factor = np.zeros(n, np.float32)
            factor[np.random.default_rng(seed).permutation(n)[:kept]] = 1
            return factor

        ways: dict[str, Callable[[], Float32Array]] = {
            "none": lambda: np.ones(n, np.float32),
            "soft": lambda: soft(table(), k=min(10, n - 1)),
        }
        ways |= {f"hard, v < {v}": partial(pruned, v) for v in THRESHOLDS}
        for share in SHARES:
            kept = max(1, round(share * n))
            ways[f"k-centre, {share:g}"] = partial(first, kept)
            ways |= {f"random {seed}, {share:g}": partial(some, kept, seed) for seed in self.seeds}
        return ways

    def draw(self) -> Figure:
        figure, (ax,) = panels(1, width=5.2, height=3.6)
        rows = [r for r in self.rows if r["vote"] == "rank" and r["k"] == self.k and r["kept"]]
        look = looks(list(FAMILIES))
        for row in rows:
            if row["pruning"] == "none":
                ax.axhline(row["accuracy"], color=INK, linewidth=1, linestyle=":", label="the whole memory")
        for family in FAMILIES:
            mine = [r for r in rows if r["pruning"].startswith(family)]
            if not mine:
                continue
            kept, accuracy = column(mine, "kept"), column(mine, "accuracy")
            sizes = np.unique(kept)
            label = "random, mean of seeds" if family == "random" else family
            curve(ax, sizes, [accuracy[kept == size].mean() for size in sizes], look[family], label)
        log_axes(ax)
        legend(ax)
        title = f"{self.source.manifest.name}, {self.encoders[0]}, rank vote, k = {self.k}"
        style_axes(ax, title, "rows kept", "accuracy, %")
        return figure
