"""The base on whole images, crops and masked crops, and retrieval among them."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from kc.report.style import looks
from kc.studies.base import Row
from kc.studies.figures import bars, panels, style_axes
from kc.studies.fusion import score_base, voted_class
from kc.studies.keys import memory_of
from kc.studies.options import RegionOptions, StudySpec
from kc.studies.regions import Regions, RegionStudy, Views, views
from kc.types import VOID, Float32Array

RETRIEVALS = (("full", "full"), ("full", "masked"), ("masked", "masked"))
"""(view of the stored keys, view of the queries)."""


class DomainShift(RegionStudy[RegionOptions]):
    """A row an answer: the base on each view of a region; retrieval with each view of the keys and of the queries."""

    spec = StudySpec(
        summary="The base on full crops and on masked ones, and retrieval between the two.",
        plots="accuracy over regions and over classes, a bar an answer",
        paper="arXiv 2601.12779",
        options=RegionOptions,
    )

    def run(self) -> Figure:
        bench = self.bench
        stored, queries = views(bench, "train"), views(bench, "test")
        for name, what in (("whole", "whole image"), ("full", "full crop"), ("masked", "masked crop")):
            self.row(f"base {name}", partial(self.of_base, queries, name, f"base on the {what}"))
        for key, query in RETRIEVALS:
            rows = dataclasses.replace(bench.train, keys=stored.keys[key])
            what = f"retrieval: {query} crops search {key} ones"
            self.row(f"{key} {query}", partial(self.of_memory, rows, queries.keys[query], what))
        # No crop at all.
        self.row("pooled", partial(self.of_memory, bench.train, bench.test.keys, "retrieval: pooled from the map"))
        names = [row["answer"] for row in self.rows]
        look = looks(["base", "retrieval"])
        figure, axes = panels(2, width=5.2)
        for ax, metric in zip(axes, ("accuracy", "mean_class_accuracy"), strict=True):
            values = [100 * row[metric] for row in self.rows]
            bars(ax, names, values, [look[n.split()[0].rstrip(":")].color for n in names])
            style_axes(ax, metric.replace("_", " "), "× 100", "")
        axes[1].set_yticklabels([])
        return figure

    def of_base(self, queries: Views, view: str, what: str) -> Row:
        regions = dataclasses.replace(self.bench.test, codes=queries.codes[view])
        return {"answer": what, **score_base(self.bench, self.bench.base_scores(regions))}

    def of_memory(self, stored: Regions, queries: Float32Array, what: str) -> Row:
        """The vote of a memory of `stored` for each query (Q, D)."""
        with memory_of(stored.named.rows()) as memory:
            found = voted_class(memory.search(queries, self.options.k), self.bench.ids)
        answer = np.where(np.isin(found, self.bench.ids), found, VOID)
        return {"answer": what, **self.bench.score(answer)}
