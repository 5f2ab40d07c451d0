"""Accuracy against the bytes of a key: PCA, random projection, int8, binary, and PCA with int8."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import numpy as np
from matplotlib.figure import Figure

from kc.memory.search.spaces import Compressed, binary, chained, int8, pca, random_projection
from kc.memory.vote.evaluation import accuracy_gain, first_k, is_correct
from kc.report.style import looks
from kc.studies.base import Row, column
from kc.studies.figures import legend, log_axes, panels, style_axes
from kc.studies.keys import VoteStudy
from kc.studies.options import SeededOptions, StudySpec
from kc.types import BoolArray, Float32Array

DIMS = (64, 128, 256, 512, 1024)


class Dimensions(VoteStudy[SeededOptions]):
    """A row an encoder and kind of key: bytes a row, accuracy of the rank vote, and its change against full keys with a
    95 % interval of the paired differences."""

    spec = StudySpec(
        summary="PCA, random projection, int8 and binary keys: accuracy against bytes.",
        plots="accuracy of the rank vote against bytes a row, a panel an encoder",
        options=SeededOptions,
    )

    def run(self) -> Figure:
        for name in self.encoders:
            self.of_encoder(name)
        figure, axes = panels(len(self.encoders), width=4.6, height=3.4)
        for ax, name in zip(axes, self.encoders, strict=True):
            rows = [r for r in self.rows if r["encoder"] == name]
            kinds = list(dict.fromkeys(r["keys"] for r in rows))
            look = looks(kinds)
            for kind in kinds:
                mine = [r for r in rows if r["keys"] == kind]
                ax.errorbar(
                    column(mine, "bytes"), column(mine, "accuracy"),
                    yerr=np.maximum(0, column(mine, "high") - column(mine, "change")),
                    color=look[kind].color, marker=look[kind].marker, markersize=5, capsize=2, linewidth=1, label=kind,
                )  # fmt: skip
            log_axes(ax)
            legend(ax)
            title = f"{self.source.manifest.name}, {name}, rank vote, k = {self.k}"
            style_axes(ax, title, "bytes a row", "accuracy, %")
        return figure

    def of_encoder(self, name: str) -> None:
        """The rows of one encoder."""
        train, test = self.both(name)
        depth = train.key.shape[1]
        full = Compressed("full", depth, 4 * depth, lambda keys: keys)

        def right(kind: Compressed) -> BoolArray:
            found = self.answers(replace(train, key=kind.apply(train.key)), kind.apply(test.key), self.k)
            return is_correct(first_k(found, self.k), test.label, "rank", **self.votes)

        @cache
        def before() -> BoolArray:
            return right(full)

        def row(kind: str, dim: int) -> Row:
            made = full if kind == "full" else fitted(kind, train.key, dim, self.seeds[0])
            now = before() if kind == "full" else right(made)
            change, low, high = accuracy_gain(before(), now)
            return {
                "encoder": name, "keys": kind, "dim": made.dim, "bytes": made.bytes,
                "accuracy": 100 * float(now.mean()), "change": 100 * change, "low": 100 * low, "high": 100 * high,
            }  # fmt: skip

        for kind in ("full", "int8", "binary"):
            self.row(f"{name} {kind}", partial(row, kind, depth))
        for dim in DIMS:
            for kind in ("PCA", "random projection", "PCA, int8"):
                if dim < depth and (kind == "random projection" or dim <= len(train)):
                    self.row(f"{name} {kind} {dim}", partial(row, kind, dim))


def fitted(kind: str, keys: Float32Array, dim: int, seed: int) -> Compressed:
    """A compression to `dim` values fitted to the stored keys (N, D)."""
    if kind == "random projection":
        return random_projection(keys.shape[1], dim, seed)
    if kind.startswith("PCA"):
        first = pca(keys, dim)
        return first if kind == "PCA" else chained(first, int8(first.apply(keys)))
    return int8(keys) if kind == "int8" else binary(keys)
