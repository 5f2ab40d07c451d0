"""Classes that are not in memory: can neighbour distance tell them, and what does abstaining buy?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
from matplotlib.figure import Figure

from kc.errors import KcError
from kc.memory.vote import evaluation
from kc.memory.vote.evaluation import is_correct
from kc.memory.vote.votes import vote
from kc.report.style import looks
from kc.studies.base import Row, column
from kc.studies.figures import curve, legend, panels, style_axes
from kc.studies.keys import NOT_IN_MEMORY, Keys, VoteStudy, concatenate, memory_of, renamed, shared_classes
from kc.studies.options import SeededOptions, StudySpec
from kc.types import BoolArray, Neighbours

HIDDEN_SHARE = 0.2
SCORES = ("nearest", "kth", "mean", "agreement", "vote")
COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Case:
    """A memory, and queries of which some, `known` (Q,), are of its classes; `seed` drew it."""

    seed: int
    memory: Keys
    queries: Keys
    known: BoolArray
    n_unknown_classes: int


class Unknowns(VoteStudy[SeededOptions]):
    """A row a case and score: AUROC and FPR95 of unknown against known queries, and the risk of the rank vote on known
    queries at several coverages. For the nearest row also how many of either `kc explain` calls unknown, whose limit
    comes from the memory alone."""

    spec = StudySpec(
        summary="Classes that are not in memory: AUROC, FPR95; risk against coverage.",
        plots="AUROC and FPR95 of each score; error against the share of queries that is answered",
        paper="arXiv 2204.06507 and 1705.08500",
        options=SeededOptions,
    )

    def run(self) -> Figure:
        for case in self.cases():

            @cache
            def found(case: Case = case) -> Neighbours:
                return self.answers(case.memory, case.queries.key, self.k)

            for score in SCORES:
                self.row(f"{case.seed} {score}", partial(self.scored, case, score, found))
        return self.draw()

    def cases(self) -> list[Case]:
        """A case a seed, in which a fifth of the classes is left out; with `--queries` one, whose unknown queries are
        those of the other benchmark's classes that the memory lacks."""
        name, source = self.encoders[0], self.source
        train, test = source.keys(name, "train"), source.keys(name, "test")
        if self.queries is None:
            hidden = {seed: hidden_classes(np.unique(train.label).tolist(), seed) for seed in self.seeds}
            return [
                Case(seed, train.take(~np.isin(train.label, h)), test, ~np.isin(test.label, h), len(h))
                for seed, h in hidden.items()
            ]
        theirs = self.queries.keys(name, "test")
        label = renamed(theirs.label, shared_classes(self.queries.manifest, source.manifest))
        others = replace(theirs, label=label).take(label == NOT_IN_MEMORY)
        if len(others) == 0:
            raise KcError(f"--queries {self.options.queries}: {source.manifest.name} has all of its classes")
        both = concatenate([test, others])
        n_classes = len(np.unique(theirs.label[label == NOT_IN_MEMORY]))
        return [Case(self.seeds[0], train, both, both.label != NOT_IN_MEMORY, n_classes)]

    def scored(self, case: Case, score: str, found: Callable[[], Neighbours]) -> Row:
        """One score of one case."""
        if score == "vote":
            shares = vote(found(), np.unique(case.memory.label), "softmax", **self.votes).numpy()
            value = (shares / np.maximum(shares.sum(1, keepdims=True), 1e-300)).max(1)
        else:
            value = evaluation.familiarity(found())[score]
        right, known = is_correct(found(), case.queries.label, "rank", **self.votes), case.known
        risks, area = evaluation.risk_coverage(value[known], right[known], COVERAGES)
        return {
            "seed": case.seed, "score": score, "unknown classes": case.n_unknown_classes,
            "known": int(known.sum()), "unknown": int((~known).sum()),
            "auroc": evaluation.auroc(value[known], value[~known]),
            "fpr95": evaluation.fpr(value[known], value[~known]), "aurc": 100 * area,
            **(called_unknown(case, value) if score == "nearest" else {}),
            **{f"risk at {100 * c:g} %": 100 * r for c, r in zip(COVERAGES, risks, strict=True)},
        }  # fmt: skip

    def draw(self) -> Figure:
        figure, (left, right) = panels(2, width=4.2)
        look = looks(list(SCORES))
        of = {score: [r for r in self.rows if r["score"] == score] for score in SCORES}
        for i, (what, label) in enumerate((("auroc", "AUROC, higher is better"), ("fpr95", "FPR95, lower is better"))):
            means = [column(rows, what).mean() for rows in of.values()]
            color = ("#0072b2", "#d55e00")[i]
            left.bar(np.arange(len(SCORES)) + 0.4 * i - 0.2, means, 0.38, color=color, label=label)
        left.set_xticks(range(len(SCORES)), SCORES)
        left.set_ylim(0, 1.25)
        legend(left)
        style_axes(left, f"{self.of}: a class that is not in memory", "", "mean of the seeds")
        for score, rows in of.items():
            risk = [column(rows, f"risk at {100 * c:g} %").mean() for c in COVERAGES]
            curve(right, [100 * c for c in COVERAGES], risk, look[score], score, dashes=())
        legend(right)
        title = f"answering the surest only, rank vote, k = {self.k}"
        style_axes(right, title, "queries answered, %", "error, %")
        return figure


def hidden_classes(classes: list[int], seed: int) -> list[int]:
    """A fifth of the classes, at least one, at random."""
    n = max(1, round(HIDDEN_SHARE * len(classes)))
    return sorted(np.random.default_rng([seed, 5]).permutation(classes)[:n].tolist())


def called_unknown(case: Case, nearest: evaluation.Float64Array) -> Row:
    """Per cent of the known and of the unknown queries whose nearest row is farther off than stored rows are."""
    with memory_of(case.memory.rows()) as memory:
        unknown = nearest < evaluation.novelty_threshold(evaluation.neighbour_cosines(memory))
    return {
        f"{what} called unknown": 100 * float(unknown[of].mean()) if of.any() else float("nan")
        for what, of in (("known", case.known), ("unknown", ~case.known))
    }
