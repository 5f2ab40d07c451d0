"""Accuracy of every vote against the number of neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial

from matplotlib.figure import Figure

from kc.memory.vote.evaluation import accuracies
from kc.memory.vote.pruning import leave_one_out
from kc.memory.vote.votes import VOTES
from kc.report.style import looks
from kc.studies.base import Row, column
from kc.studies.figures import curve, legend, log_axes, panels, style_axes
from kc.studies.keys import VoteStudy, memory_of
from kc.studies.options import KeyOptions, StudySpec

MARKED = 12
"""Points of a line that are marked."""


@dataclass(frozen=True)
class VotesOptions(KeyOptions):
    """Options of votes.

    Args:
        leave_one_out: Ask with each training row, left out of its own search, instead of the test rows.
    """

    leave_one_out: bool = False


class Votes(VoteStudy[VotesOptions]):
    """A row an encoder and k: accuracy of each vote in per cent, from one search at the largest k."""

    spec = StudySpec(
        summary="Accuracy of every vote against k, for each encoder.",
        plots="accuracy against k, a line a vote, a panel an encoder",
        paper="arXiv 2408.08172",
        options=VotesOptions,
    )

    def run(self) -> Figure:
        ks = sorted(self.ks)
        for name in self.encoders:

            @cache
            def scores(name: str = name) -> tuple[dict[str, list[float]], int, int]:
                return self.scores(name, ks)

            def row(i: int, name: str = name) -> Row:
                accuracy, n_rows, n_queries = scores(name)
                of_votes = {kind: 100 * accuracy[kind][i] for kind in VOTES}
                return {"encoder": name, "k": ks[i], "rows": n_rows, "queries": n_queries, **of_votes}

            for i, k in enumerate(ks):
                self.row(f"{name} {k}", partial(row, i))
        figure, axes = panels(len(self.encoders))
        look = looks(list(VOTES))
        for ax, name in zip(axes, self.encoders, strict=True):
            rows = [r for r in self.rows if r["encoder"] == name]
            for kind in VOTES:
                every = max(1, len(rows) // MARKED)
                curve(ax, column(rows, "k"), column(rows, kind), look[kind], kind, markevery=every)
            log_axes(ax)
            style_axes(ax, f"{self.of}, {name}, {rows[0]['rows']:,} rows", "neighbours k", "accuracy, %")
        legend(axes[0])
        return figure

    def scores(self, encoder: str, ks: list[int]) -> tuple[dict[str, list[float]], int, int]:
        """Accuracy of each vote at each of `ks`, number of rows, number of queries."""
        if self.options.leave_one_out:
            train = self.keys(encoder, "train")
            with memory_of(train.rows()) as memory:
                table = leave_one_out(memory, self.clamp(ks[-1], len(train) - 1))
            found, truth = table.neighbours(), table.class_id
        else:
            train, test = self.both(encoder)
            found, truth = self.answers(train, test.key, ks[-1]), test.label
        return accuracies(found, truth, ks, **self.votes), len(train), len(truth)
