"""A memory of one benchmark with queries of another, and how few rows of the new one recover the loss."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kc.errors import KcError
from kc.studies.base import Row
from kc.studies.figures import curves, legend, level, panels
from kc.studies.fusion import default_setting, score_base, score_fused, score_memory
from kc.studies.keys import memory_of
from kc.studies.options import PairOptions, StudySpec
from kc.studies.regions import Benchmark, PairStudy, Regions

SIZES = (0, 10, 30, 100, 300, 1_000, 3_000)


class OtherDomain(PairStudy[PairOptions]):
    """A row a direction and number of new rows: memory alone and fused, with and without the rows of the other
    benchmark, which keep their names: classes with a name or synonym in common are one."""

    spec = StudySpec(
        summary="A memory of one benchmark, queries of another, and what new rows recover.",
        plots="the metric of the queried benchmark against rows of its own, a panel a direction",
        options=PairOptions,
    )

    def run(self) -> Figure:
        pair = (self.bench, self.other)
        self.direction(*pair)
        self.direction(*pair[::-1])
        figure, axes = panels(2, width=4.6)
        for ax, bench in zip(axes, pair, strict=True):
            rows = [r for r in self.rows if r["queries"] == bench.name]
            fused = [r for r in rows if r["answer"] == "fused"]
            x_name, title = f"rows of {bench.name}", f"queries of {bench.name}"
            curves(ax, fused, "new_rows", bench.metric, "memory", x_name=x_name, title=title)
            level(ax, 100 * rows[0][bench.metric], "base alone")
            ax.set_xscale("symlog", linthresh=10)
            ax.set_xlim(left=-1)
            ax.set_ylim(bottom=0)
            legend(ax, frameon=True, framealpha=1, edgecolor="white")
        return figure

    def direction(self, queried: Benchmark, origin: Benchmark) -> None:
        """The rows of one direction: a memory of `origin`, queries from the test images of `queried`."""
        names = translation(origin, queried)
        shared = len(set(names.values()) & set(queried.classes))
        if not shared:
            raise KcError(f"{origin.name} and {queried.name} have no name in common: nothing could be carried over")
        theirs, own = origin.train.named, queried.train.named
        labels = np.array([names[int(c)] for c in theirs.label])
        foreign = Regions(theirs.keys, theirs.codes, labels, theirs.image + 1_000_000)
        own = own.at(np.random.default_rng(self.options.seed).permutation(len(own.label)))
        base = queried.base_scores(queried.test)
        what = {"queries": queried.name, "origin": origin.name, "shared_classes": shared, "classes": len(queried.ids)}
        alone = {"memory": "none", "answer": "base alone"}
        self.row(f"{queried.name} base", lambda: {**what, **alone, **score_base(queried, base)})
        for n in [*(n for n in SIZES if n < len(own.label)), len(own.label)]:
            for with_foreign in (True, False):
                if n or with_foreign:
                    new = own.at(np.arange(n))
                    rows = foreign + new if with_foreign else new
                    name = f"memory of {origin.name} + new rows" if with_foreign else "new rows alone"
                    values = {**what, "memory": name, "new_rows": n, "rows": len(rows.label)}
                    self.row(f"{queried.name} {n} {with_foreign}", partial(self.scored, queried, rows, base, values))

    def scored(self, queried: Benchmark, rows: Regions, base: Tensor, values: Row) -> Row:
        """Base and memory together; the memory's own vote as `memory_...`."""
        with memory_of(rows.rows()) as memory:
            fused = score_fused(queried, memory, base, default_setting(self.options.k))
            alone = score_memory(queried, memory, self.options.k)
        return {**values, "answer": "fused", **fused, **{f"memory_{name}": value for name, value in alone.items()}}


def translation(origin: Benchmark, queried: Benchmark) -> dict[int, int]:
    """Class id of `origin` -> id of the class of `queried` that has a name or synonym in common (the same first name
    wins), else an id above those of `queried`: such rows take places among the neighbours, and win nothing."""
    first = max(queried.classes) + 1
    named = {n.casefold(): c.id for c in reversed(queried.classes.values()) for n in c.synonyms}
    named |= {c.name.casefold(): c.id for c in queried.classes.values()}
    found = {}
    for c in origin.classes.values():
        own = [n.casefold() for n in (c.name, *c.synonyms)]
        found[c.id] = next((named[n] for n in own if n in named), first + c.id)
    return found
