"""A vocabulary that grows to thousands of names: what it costs, and what it does to the old ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from timm.data.imagenet_info import ImageNetInfo

from kc.errors import KcError
from kc.memory.vote.fusion import retrieval_logits
from kc.methods.regions import best
from kc.report.style import looks
from kc.studies.base import Row, column, whole_numbers
from kc.studies.figures import curve, legend, panels, style_axes
from kc.studies.fusion import default_setting, fuse, in_memory
from kc.studies.keys import memory_of
from kc.studies.options import RegionOptions, StudySpec
from kc.studies.regions import Benchmark, Regions, RegionStudy, median_cosines, near_keys
from kc.types import VOID

ROWS_A_NAME = 10


@dataclass(frozen=True)
class VocabularyOptions(RegionOptions):
    """Options of vocabulary.

    Args:
        names: Sizes of the vocabulary, separated by commas.
    """

    names: str = "133,1000,10000"


class Vocabulary(RegionStudy[VocabularyOptions]):
    """A row a size of the vocabulary: accuracy on real test regions, whose classes are the benchmark's own; rows,
    bytes, and seconds to learn the step's rows and names, and to answer one region.

    Names beyond the benchmark's are those of ImageNet-12k; their rows are simulated: a centre as far from a real row
    as rows of other classes are, and rows around it as far as rows of one class are.
    """

    spec = StudySpec(
        summary="Vocabularies of up to 10,000 names: accuracy, rows, bytes and seconds.",
        plots="accuracy, bytes and times against the number of names",
        options=VocabularyOptions,
    )

    def run(self) -> Figure:
        sizes, bench = whole_numbers("names", self.options.names), self.bench
        more = other_names(bench)
        if max(sizes) > len(bench.ids) + len(more):
            raise KcError(f"--names {self.options.names}: there are {len(bench.ids) + len(more)} names")
        for size in sizes:
            self.row(str(size), partial(self.scored, more[: max(0, size - len(bench.ids))]))
        return self.draw()

    def scored(self, names: list[str]) -> Row:
        """One size of the vocabulary: the benchmark's names and these."""
        bench, k, real = self.bench, self.options.k, self.bench.train.named
        simulated = around_names(real, len(names), max(bench.ids) + 1, self.options.seed)
        stored = real + simulated
        ids = (*bench.ids, *(int(c) for c in np.unique(simulated.label)))
        known_as = [*([c.name, *c.synonyms] for c in bench.classes.values()), *([n] for n in names)]
        start = time.perf_counter()
        bench.base.scores_from_codes(torch.from_numpy(bench.test.codes[:1]), known_as)
        read = time.perf_counter() - start
        start = time.perf_counter()
        with memory_of(stored.rows()) as memory:
            learned = time.perf_counter() - start
            start = time.perf_counter()
            base = bench.base.scores_from_codes(torch.from_numpy(bench.test.codes), known_as)
            found = memory.search(bench.test.keys, k)
            scores = fuse(base, in_memory(memory, ids), default_setting(k), *retrieval_logits(found, ids))
            answered = time.perf_counter() - start
            n_bytes = int(memory.stats()["bytes"])
        # Another name is void where maps are scored.
        answers = (best(scores, ids), best(base, ids))
        fused, alone = (np.where(np.isin(answer, bench.ids), answer, VOID) for answer in answers)
        return {
            "names": len(ids), "rows": len(stored.label), "simulated": len(simulated.label), "bytes": n_bytes,
            "seconds_to_read_names": read, "seconds_to_learn": learned,
            "milliseconds_a_region": 1000 * answered / len(bench.test.label),
            **bench.score(fused), **{f"base_{name}": value for name, value in bench.score(alone).items()},
            "answered_with_another_name": float((fused == VOID)[bench.test.label != VOID].mean()),
        }  # fmt: skip

    def draw(self) -> Figure:
        rows = self.rows
        x = column(rows, "names")
        figure, axes = panels(3)
        look = looks(["fused", "base", "rows"])
        curve(axes[0], x, 100 * column(rows, "accuracy"), look["fused"], "base and memory")
        curve(axes[0], x, 100 * column(rows, "base_accuracy"), look["base"], "base alone")
        style_axes(axes[0], "real test regions", "names", "accuracy × 100")
        axes[0].set_ylim(bottom=0)
        curve(axes[1], x, column(rows, "bytes") / 2**20, look["rows"], "")
        for r in rows:
            note = f"{r['rows']:,} rows\n{r['simulated']:,} simulated"
            axes[1].annotate(note, (r["names"], r["bytes"] / 2**20), xytext=(0, 6), textcoords="offset points",
                             fontsize=7, ha="center")  # fmt: skip
        style_axes(axes[1], "memory", "names", "MiB")
        axes[1].margins(0.25)
        for key, title in (("seconds_to_learn", "learn all rows (s)"), ("seconds_to_read_names", "read all names (s)"),
                           ("milliseconds_a_region", "answer a region (ms)")):  # fmt: skip
            axes[2].plot(x, column(rows, key), marker="o", label=title)
        style_axes(axes[2], "time", "names", "")
        axes[2].set_yscale("log")
        for ax in (axes[0], axes[2]):
            legend(ax)
        for ax in axes:
            ax.set_xscale("log")
        return figure


def other_names(bench: Benchmark) -> list[str]:
    """First names of ImageNet-12k that the benchmark does not have, each once."""
    known = {n.casefold() for c in bench.classes.values() for n in (c.name, *c.synonyms)}
    info: Any = ImageNetInfo("imagenet-12k")
    found: dict[str, str] = {}
    for i in range(info.num_classes()):
        name = info.index_to_description(i).split(",")[0].strip()
        if name.casefold() not in known:
            found.setdefault(name.casefold(), name)
    return list(found.values())


def around_names(real: Regions, n: int, first: int, seed: int) -> Regions:
    """`ROWS_A_NAME` simulated rows of each of `n` names, numbered from `first` on."""
    inner, outer = median_cosines(real)
    rng = np.random.default_rng(seed)
    origin = rng.integers(0, len(real.label), n)
    centre = np.repeat(near_keys(real.keys[origin], outer, seed), ROWS_A_NAME, axis=0)
    return Regions(
        near_keys(centre, inner, seed + 1) if n else real.keys[:0],
        np.repeat(real.codes[origin], ROWS_A_NAME, axis=0),
        np.repeat(np.arange(n) + first, ROWS_A_NAME),
        np.arange(n * ROWS_A_NAME) + int(real.image.max()) + 1,
    )
