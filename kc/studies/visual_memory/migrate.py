"""From one encoder to another where only some images are left: old, migrated and re-encoded memories."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from kc.memory.search.spaces import MAPS, fit_map
from kc.memory.vote.evaluation import accuracies
from kc.report.style import looks
from kc.studies.record import Row, column, dress, panels
from kc.studies.visual_memory.axes import log_axes
from kc.studies.visual_memory.command import Asked
from kc.studies.visual_memory.keys import Keys, joined
from kc.types import BoolArray

SHARES = (0.02, 0.05, 0.1, 0.25, 0.5)
"""Shares of the rows whose images are still there."""


def run(asked: Asked) -> Figure:
    """A row a share, seed and memory: accuracy of the rank vote over test images.

    old: every row, queries of the old encoder. re-encoded: every row by the new encoder (needs every image). left:
    only the rows whose images are there. orthogonal, ridge: those, and all others mapped from their old keys.
    """
    first, second = asked.encoders[:2]
    before, after = (asked.source.keys(name, "train") for name in (first, second))
    old, new = (asked.source.keys(name, "test") for name in (first, second))
    if (before.sample_id, before.segment.tolist()) != (after.sample_id, after.segment.tolist()):
        raise ValueError(f"{first} and {second} see other rows: a key of length 0 in one of them")

    def judged(train: Keys, test: Keys) -> float:
        found = asked.answers(train, test.key, asked.k)
        return 100 * accuracies(found, test.label, [asked.k], ["rank"], **asked.knobs)["rank"][0]

    def row(share: float, seed: int, memory: str) -> Row:
        there = still_there(len(before), share, seed)
        head: Row = {"share": share, "seed": seed, "memory": memory, "images": int(there.sum())}
        if memory == "old":
            return {**head, "accuracy": judged(before, old)}
        if memory == "re-encoded":
            return {**head, "accuracy": judged(after, new)}
        if memory == "left":
            return {**head, "accuracy": judged(after.take(there), new)}
        moved = fit_map(before.key[there], after.key[there], memory)
        gone = before.take(~there)
        mapped = Keys(moved(gone.key), gone.label, gone.sample_id, gone.segment)
        near = float((mapped.key * after.take(~there).key).sum(1).mean())
        return {**head, "accuracy": judged(joined([after.take(there), mapped]), new), "cosine": near}

    for share in SHARES:
        for seed in asked.seeds:
            for memory in ("old", "re-encoded", "left", *MAPS):
                asked.study.row(f"{share} {seed} {memory}", partial(row, share, seed, memory))
    figure, (ax,) = panels(1, width=5, height=3.4)
    names = ("old", "re-encoded", "left", *MAPS)
    look = looks(list(names))
    labels = {"old": f"all rows, {first}", "re-encoded": f"all rows, {second}", "left": f"images left only, {second}"}
    for memory in names:
        rows = [r for r in asked.study.rows if r["memory"] == memory]
        shares, accuracy = column(rows, "share"), column(rows, "accuracy")
        style = look[memory]
        ax.plot(
            [100 * s for s in SHARES], [accuracy[shares == s].mean() for s in SHARES], color=style.color,
            marker=style.marker, markersize=4, dashes=style.dash or (), label=labels.get(memory, f"{memory} map"),
        )  # fmt: skip
    log_axes(ax)
    ax.legend(fontsize=8, frameon=False)
    dress(
        ax, f"{asked.source.manifest.name}: {first} to {second}, rank vote, k = {asked.k}",
        "images still there, %", "accuracy, %",
    )  # fmt: skip
    return figure


def still_there(n_rows: int, share: float, seed: int) -> BoolArray:
    """(N,) which rows still have their image: at random, at least two."""
    there = np.zeros(n_rows, bool)
    there[np.random.default_rng([seed, 3]).permutation(n_rows)[: max(2, round(share * n_rows))]] = True
    return there
