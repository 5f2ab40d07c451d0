"""From one encoder to another where only some images are left: old, migrated and re-encoded memories."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from kc.memory.search.spaces import MAPS, fit_map
from kc.memory.vote.evaluation import accuracies
from kc.report.style import looks
from kc.studies.base import Row, column
from kc.studies.figures import curve, legend, log_axes, panels, style_axes
from kc.studies.keys import Keys, VoteStudy, concatenate
from kc.studies.options import SeededOptions, StudySpec
from kc.types import BoolArray

SHARES = (0.02, 0.05, 0.1, 0.25, 0.5)
"""Shares of the rows whose images are still there."""
MEMORIES = ("old", "re-encoded", "left", *MAPS)


class Migrate(VoteStudy[SeededOptions]):
    """A row a share, seed and memory: accuracy of the rank vote over test images.

    old: every row, queries of the old encoder. re-encoded: every row by the new encoder (needs every image). left:
    only the rows whose images are there. orthogonal, ridge: those, and all others mapped from their old keys.
    """

    spec = StudySpec(
        summary="From one encoder to another: old, migrated and re-encoded memories.",
        plots="accuracy against the share of images that are still there, a line a memory",
        options=SeededOptions,
    )
    N_ENCODERS = 2

    def run(self) -> Figure:
        first, second = self.encoders[:2]
        (before, old), (after, new) = self.both(first), self.both(second)
        if (before.sample_id, before.segment.tolist()) != (after.sample_id, after.segment.tolist()):
            raise ValueError(f"{first} and {second} see other rows: a key of length 0 in one of them")

        def scored(train: Keys, test: Keys) -> float:
            found = self.answers(train, test.key, self.k)
            return 100 * accuracies(found, test.label, [self.k], ["rank"], **self.votes)["rank"][0]

        def row(share: float, seed: int, memory: str) -> Row:
            there = still_there(len(before), share, seed)
            head: Row = {"share": share, "seed": seed, "memory": memory, "images": int(there.sum())}
            plain = {"old": (before, old), "re-encoded": (after, new), "left": (after.take(there), new)}
            if memory in plain:
                return {**head, "accuracy": scored(*plain[memory])}
            moved = fit_map(before.key[there], after.key[there], memory)
            gone = before.take(~there)
            mapped = Keys(moved(gone.key), gone.label, gone.sample_id, gone.segment)
            near = float((mapped.key * after.take(~there).key).sum(1).mean())
            return {**head, "accuracy": scored(concatenate([after.take(there), mapped]), new), "cosine": near}

        for share in SHARES:
            for seed in self.seeds:
                for memory in MEMORIES:
                    self.row(f"{share} {seed} {memory}", partial(row, share, seed, memory))
        figure, (ax,) = panels(1, width=5, height=3.4)
        look = looks(list(MEMORIES))
        labels = {"old": f"all rows, {first}", "re-encoded": f"all rows, {second}"}
        labels["left"] = f"images left only, {second}"
        for memory in MEMORIES:
            rows = [r for r in self.rows if r["memory"] == memory]
            shares, accuracy = column(rows, "share"), column(rows, "accuracy")
            mean = [accuracy[shares == s].mean() for s in SHARES]
            curve(ax, [100 * s for s in SHARES], mean, look[memory], labels.get(memory, f"{memory} map"))
        log_axes(ax)
        legend(ax)
        title = f"{self.source.manifest.name}: {first} to {second}, rank vote, k = {self.k}"
        style_axes(ax, title, "images still there, %", "accuracy, %")
        return figure


def still_there(n_rows: int, share: float, seed: int) -> BoolArray:
    """(N,) which rows still have their image: at random, at least two."""
    there = np.zeros(n_rows, bool)
    there[np.random.default_rng([seed, 3]).permutation(n_rows)[: max(2, round(share * n_rows))]] = True
    return there
