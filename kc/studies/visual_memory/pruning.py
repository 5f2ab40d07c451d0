"""Rows kept against accuracy: hard and soft pruning, a greedy k-centre coreset, and rows at random."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from matplotlib.figure import Figure

from kc.memory.search.spaces import k_center_greedy
from kc.memory.vote.evaluation import accuracy_gain, first_k, is_correct
from kc.memory.vote.pruning import NeighbourTable, hard, leave_one_out, soft
from kc.report.style import looks
from kc.studies.record import column, dress, panels
from kc.studies.visual_memory.axes import log_axes
from kc.studies.visual_memory.command import Asked
from kc.studies.visual_memory.keys import Keys, memory_of
from kc.types import BoolArray, Float32Array

THRESHOLDS = (128, 64, 32, 16, 8, 4, 2, 1)
SHARES = (0.75, 0.5, 0.25, 0.1, 0.05)
KINDS = ("plurality", "softmax", "rank")
LOO_K = 100
"""Neighbours over which hard pruning counts wrong votes; the paper's. Soft pruning counts over 10."""


def run(asked: Asked) -> Figure:
    """A row a way of pruning, vote and k: rows kept, accuracy, and its change against the whole memory with a 95 %
    interval of the paired differences."""
    name = asked.encoders[0]
    train, test = (asked.source.keys(name, split) for split in ("train", "test"))

    @cache
    def table() -> NeighbourTable:
        with memory_of(train) as memory:
            return leave_one_out(memory, LOO_K)

    @cache
    def order() -> Float32Array:
        """Rank of each row in the order in which the coreset takes them."""
        rank = np.empty(len(train), np.float32)
        rank[k_center_greedy(train.key, len(train))] = np.arange(len(train))
        return rank

    ways: dict[str, Callable[[], Float32Array]] = {
        "none": lambda: np.ones(len(train), np.float32),
        "soft": lambda: soft(table(), k=min(10, len(train) - 1)),
    }
    for v in THRESHOLDS:
        ways[f"hard, v < {v}"] = lambda v=v: hard(table(), v, min(LOO_K, len(train) - 1))  # type: ignore[misc]
    for share in SHARES:
        n = max(1, round(share * len(train)))
        ways[f"k-centre, {share:g}"] = lambda n=n: (order() < n).astype(np.float32)  # type: ignore[misc]
        for seed in asked.seeds:
            ways[f"random {seed}, {share:g}"] = lambda n=n, seed=seed: some(len(train), n, seed)  # type: ignore[misc]
    ks = sorted(asked.ks)

    @cache
    def right(way: str) -> dict[tuple[str, int], BoolArray]:
        largest = asked.clamp(ks[-1], len(train))
        return judged(train, test, ways[way](), ks, largest, asked.knobs)

    for way in ways:
        for kind in KINDS:
            for k in ks:

                def row(way: str = way, kind: str = kind, k: int = k) -> dict[str, object]:
                    factor = ways[way]()
                    if not (factor > 0).any():
                        return {"pruning": way, "vote": kind, "k": k, "kept": 0}
                    now = right(way)[kind, k]
                    change, low, high = accuracy_gain(right("none")[kind, k], now)
                    return {
                        "pruning": way, "vote": kind, "k": k, "kept": int((factor > 0).sum()),
                        "accuracy": 100 * float(now.mean()), "change": 100 * change, "low": 100 * low,
                        "high": 100 * high,
                    }  # fmt: skip

                asked.study.row(f"{way} {kind} {k}", row)
    return drawn(asked)


def some(n_rows: int, n: int, seed: int) -> Float32Array:
    """Factor 1 for `n` rows at random, else 0."""
    factor = np.zeros(n_rows, np.float32)
    factor[np.random.default_rng(seed).permutation(n_rows)[:n]] = 1
    return factor


def judged(
    train: Keys, test: Keys, factor: Float32Array, ks: list[int], largest: int, knobs: dict[str, float]
) -> dict[tuple[str, int], BoolArray]:
    """Which test keys each vote gets right at each k, by a memory whose rows weigh `factor`; `largest`: k of the
    search."""
    with memory_of(train) as memory:
        memory.reweight(np.arange(len(train)), factor)
        found = memory.search(test.key, largest)
    return {(kind, k): is_correct(first_k(found, k), test.label, kind, **knobs) for kind in KINDS for k in ks}


def drawn(asked: Asked) -> Figure:
    """Accuracy of the rank vote at the first k against the rows kept."""
    figure, (ax,) = panels(1, width=5.2, height=3.6)
    rows = [r for r in asked.study.rows if r["vote"] == "rank" and r["k"] == asked.k and r["kept"]]
    families = ("hard", "k-centre", "random", "soft")
    look = looks(list(families))
    for row in rows:
        if row["pruning"] == "none":
            ax.axhline(row["accuracy"], color="#333333", linewidth=1, linestyle=":", label="the whole memory")
    for family in families:
        mine = [r for r in rows if r["pruning"].startswith(family)]
        if not mine:
            continue
        kept = column(mine, "kept")
        sizes = np.unique(kept)
        accuracy = column(mine, "accuracy")
        mean = [accuracy[kept == size].mean() for size in sizes]
        style = look[family]
        label = "random, mean of seeds" if family == "random" else family
        ax.plot(sizes, mean, color=style.color, marker=style.marker, markersize=5, dashes=style.dash or (), label=label)
    log_axes(ax)
    ax.legend(fontsize=8, frameon=False)
    dress(
        ax, f"{asked.source.manifest.name}, {asked.encoders[0]}, rank vote, k = {asked.k}", "rows kept", "accuracy, %"
    )
    return figure
