"""Corrupted queries against a clean memory, and what a memory of corrupted images in its place, or beside it, wins."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kc.memory.vote.evaluation import accuracies
from kc.report.style import looks
from kc.studies.record import Row, column, dress, panels
from kc.studies.visual_memory.command import Asked
from kc.studies.visual_memory.corrupt import STRENGTHS, corrupted
from kc.studies.visual_memory.keys import Keys, joined
from kc.types import SplitName

MEMORIES = ("clean", "swapped", "added")


def run(asked: Asked) -> Figure:
    """A row a corruption, strength and memory: accuracy of the rank vote. Strength 0 is the clean test set."""
    name, source = asked.encoders[0], asked.source

    def keys(split: SplitName, kind: str, strength: int) -> Keys:
        if strength == 0:
            return source.keys(name, split)

        def change(image: Tensor, sample_id: str) -> Tensor:
            return corrupted(image, kind, strength, sample_id)

        return source.keys(name, split, change, f"{kind}-{strength}")

    def row(kind: str, strength: int, memory: str) -> Row:
        test = keys("test", kind, strength)
        clean = keys("train", kind, 0)
        train = clean
        if memory != "clean":
            spoilt = keys("train", kind, strength)
            other = replace(spoilt, sample_id=tuple(f"{s}|{kind}-{strength}" for s in spoilt.sample_id))
            train = other if memory == "swapped" else joined([clean, other])
        scores = accuracies(asked.answers(train, test.key, asked.k), test.label, [asked.k], ["rank"], **asked.knobs)
        return {
            "corruption": kind, "strength": strength, "memory": memory, "rows": len(train), "queries": len(test),
            "accuracy": 100 * scores["rank"][0],
        }  # fmt: skip

    for kind in STRENGTHS:
        for strength in range(6):
            for memory in MEMORIES[: 1 if strength == 0 else 3]:
                asked.study.row(f"{kind} {strength} {memory}", partial(row, kind, strength, memory))
    figure, axes = panels(len(STRENGTHS), columns=4, width=2.9)
    look = looks(list(MEMORIES))
    for ax, kind in zip(axes, STRENGTHS, strict=True):
        rows = [r for r in asked.study.rows if r["corruption"] == kind]
        for memory in MEMORIES:
            mine = [r for r in rows if r["memory"] == memory or r["strength"] == 0]
            order = np.argsort(column(mine, "strength"))
            style = look[memory]
            ax.plot(
                column(mine, "strength")[order], column(mine, "accuracy")[order], color=style.color,
                marker=style.marker, markersize=4, dashes=style.dash or (), label=f"{memory} memory",
            )  # fmt: skip
        ax.set_ylim(0, 100)
        dress(ax, kind, "strength", "accuracy, %")
    axes[0].legend(fontsize=7, frameon=False)
    return figure
