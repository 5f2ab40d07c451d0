"""Accuracy against the bytes of a key: PCA, random projection, int8, binary, and PCA with int8."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from kc.memory.search.spaces import Compressed, binary, chained, int8, pca, random_projection
from kc.memory.vote.evaluation import accuracy_gain, first_k, is_correct
from kc.report.style import looks
from kc.studies.record import Row, column, dress, panels
from kc.studies.visual_memory.axes import log_axes
from kc.studies.visual_memory.command import Asked
from kc.types import BoolArray

DIMS = (64, 128, 256, 512, 1024)


def run(asked: Asked) -> Figure:
    """A row an encoder and kind of key: bytes a row, accuracy of the rank vote, and its change against full keys with a
    95 % interval of the paired differences."""
    for name in asked.encoders:
        rows_of(asked, name)
    figure, axes = panels(len(asked.encoders), width=4.6, height=3.4)
    for ax, name in zip(axes, asked.encoders, strict=True):
        rows = [r for r in asked.study.rows if r["encoder"] == name]
        kinds = list(dict.fromkeys(r["keys"] for r in rows))
        look = looks(kinds)
        for kind in kinds:
            mine = [r for r in rows if r["keys"] == kind]
            accuracy, style = column(mine, "accuracy"), look[kind]
            ax.errorbar(
                column(mine, "bytes"), accuracy, yerr=np.maximum(0, column(mine, "high") - column(mine, "change")),
                color=style.color, marker=style.marker, markersize=5, capsize=2, linewidth=1, label=kind,
            )  # fmt: skip
        log_axes(ax)
        ax.legend(fontsize=8, frameon=False)
        dress(ax, f"{asked.source.manifest.name}, {name}, rank vote, k = {asked.k}", "bytes a row", "accuracy, %")
    return figure


def rows_of(asked: Asked, name: str) -> None:
    """The rows of one encoder."""
    train, test = (asked.source.keys(name, split) for split in ("train", "test"))
    depth = train.key.shape[1]
    full: list[BoolArray] = []

    def right(kind: Compressed) -> BoolArray:
        small = replace(train, key=kind.apply(train.key))
        found = asked.answers(small, kind.apply(test.key), asked.k)
        return is_correct(first_k(found, asked.k), test.label, "rank", **asked.knobs)

    def row(kind: str, dim: int) -> Row:
        if not full:
            full.append(right(whole))
        made = whole if kind == "full" else fitted(kind, dim)
        now = right(made)
        change, low, high = accuracy_gain(full[0], now)
        return {
            "encoder": name, "keys": kind, "dim": made.dim, "bytes": made.bytes,
            "accuracy": 100 * float(now.mean()), "change": 100 * change, "low": 100 * low, "high": 100 * high,
        }  # fmt: skip

    def fitted(kind: str, dim: int) -> Compressed:
        stored = train.key
        if kind == "random projection":
            return random_projection(stored.shape[1], dim, asked.seeds[0])
        if kind == "PCA":
            return pca(stored, dim)
        if kind == "PCA, int8":
            first = pca(stored, dim)
            return chained(first, int8(first.apply(stored)))
        return int8(stored) if kind == "int8" else binary(stored)

    whole = Compressed("full", depth, 4 * depth, lambda keys: keys)
    for kind in ("full", "int8", "binary"):
        asked.study.row(f"{name} {kind}", partial(row, kind, depth))
    for dim in DIMS:
        for kind in ("PCA", "random projection", "PCA, int8"):
            if dim < depth and (kind == "random projection" or dim <= len(train)):
                asked.study.row(f"{name} {kind} {dim}", partial(row, kind, dim))
