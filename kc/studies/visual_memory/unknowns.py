"""Classes that are not in memory: can neighbour distance tell them, and what does abstaining buy?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from matplotlib.figure import Figure

from kc.errors import KcError
from kc.memory.vote.evaluation import (
    Float64Array,
    auroc,
    familiarity,
    fpr,
    is_correct,
    neighbour_cosines,
    novelty_threshold,
    risk_coverage,
)
from kc.memory.vote.votes import vote
from kc.report.style import looks
from kc.studies.record import Row, column, dress, panels
from kc.studies.visual_memory.command import Asked
from kc.studies.visual_memory.crossed import NOT_IN_MEMORY, renamed, shared_classes
from kc.studies.visual_memory.keys import Keys, joined, memory_of
from kc.types import BoolArray, Neighbours

HIDDEN_SHARE = 0.2
SCORES = ("nearest", "kth", "mean", "agreement", "vote")
COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


def hidden_classes(classes: list[int], seed: int) -> list[int]:
    """A fifth of the classes, at least one, at random."""
    n = max(1, round(HIDDEN_SHARE * len(classes)))
    return sorted(np.random.default_rng([seed, 5]).permutation(classes)[:n].tolist())


@dataclass(frozen=True)
class Case:
    """A memory, and queries of which some, `known` (Q,), are of its classes; `seed` drew it."""

    seed: int
    memory: Keys
    queries: Keys
    known: BoolArray
    n_unknown_classes: int


def cases(asked: Asked) -> list[Case]:
    """A case a seed, in which a fifth of the classes is left out; with `--queries` one, whose unknown queries are those
    of the other benchmark's classes that the memory lacks."""
    name = asked.encoders[0]
    train, test = (asked.source.keys(name, split) for split in ("train", "test"))
    if asked.strangers is None:
        hidden = {seed: hidden_classes(np.unique(train.label).tolist(), seed) for seed in asked.seeds}
        return [
            Case(seed, train.take(~np.isin(train.label, h)), test, ~np.isin(test.label, h), len(h))
            for seed, h in hidden.items()
        ]
    theirs = asked.strangers.keys(name, "test")
    label = renamed(theirs.label, shared_classes(asked.strangers.manifest, asked.source.manifest))
    others = replace(theirs, label=label).take(label == NOT_IN_MEMORY)
    if len(others) == 0:
        raise KcError(f"--queries {asked.config.queries}: {asked.source.manifest.name} has all of its classes")
    both = joined([test, others])
    n_classes = len(np.unique(theirs.label[label == NOT_IN_MEMORY]))
    return [Case(asked.seeds[0], train, both, both.label != NOT_IN_MEMORY, n_classes)]


def called(case: Case, first_k: Float64Array) -> Row:
    """Per cent of the known and of the unknown queries whose nearest row is farther off than stored rows are."""
    with memory_of(case.memory) as memory:
        strange = first_k < novelty_threshold(neighbour_cosines(memory))
    return {
        f"{what} called unknown": 100 * float(strange[of].mean()) if of.any() else float("nan")
        for what, of in (("known", case.known), ("unknown", ~case.known))
    }


def run(asked: Asked) -> Figure:
    """A row a case and score: AUROC and FPR95 of unknown against known queries, and the risk of the rank vote on known
    queries at several coverages. For the nearest row also how many of either `kc explain` calls unknown, whose limit
    comes from the memory alone."""
    for case in cases(asked):

        @cache
        def found(case: Case = case) -> Neighbours:
            return asked.answers(case.memory, case.queries.key, asked.k)

        for score in SCORES:

            def row(case: Case = case, score: str = score, found: Callable[[], Neighbours] = found) -> Row:
                if score == "vote":
                    classes = np.unique(case.memory.label)
                    shares = vote(found(), classes, "softmax", **asked.knobs).numpy()
                    value = (shares / np.maximum(shares.sum(1, keepdims=True), 1e-300)).max(1)
                else:
                    value = familiarity(found())[score]
                right, known = is_correct(found(), case.queries.label, "rank", **asked.knobs), case.known
                risks, area = risk_coverage(value[known], right[known], COVERAGES)
                return {
                    "seed": case.seed, "score": score, "unknown classes": case.n_unknown_classes,
                    "known": int(known.sum()), "unknown": int((~known).sum()),
                    "auroc": auroc(value[known], value[~known]), "fpr95": fpr(value[known], value[~known]),
                    "aurc": 100 * area, **(called(case, value) if score == "nearest" else {}),
                    **{f"risk at {100 * c:g} %": 100 * r for c, r in zip(COVERAGES, risks, strict=True)},
                }  # fmt: skip

            asked.study.row(f"{case.seed} {score}", row)
    figure, (left, right) = panels(2, width=4.2)
    scores, look = SCORES, looks(list(SCORES))
    for i, what in enumerate(("auroc", "fpr95")):
        means = [column([r for r in asked.study.rows if r["score"] == s], what).mean() for s in scores]
        left.bar(
            np.arange(len(scores)) + 0.4 * i - 0.2, means, 0.38, color=("#0072b2", "#d55e00")[i],
            label=("AUROC, higher is better", "FPR95, lower is better")[i],
        )  # fmt: skip
    left.set_xticks(range(len(scores)), scores)
    left.set_ylim(0, 1.25)
    left.legend(fontsize=8, frameon=False)
    dress(left, f"{asked.study.folder.parent.name}: a class that is not in memory", "", "mean of the seeds")
    for score in scores:
        rows = [r for r in asked.study.rows if r["score"] == score]
        risk = [column(rows, f"risk at {100 * c:g} %").mean() for c in COVERAGES]
        style = look[score]
        right.plot(
            [100 * c for c in COVERAGES], risk, color=style.color, marker=style.marker, markersize=4, label=score
        )
    right.legend(fontsize=8, frameon=False)
    dress(right, f"answering the surest only, rank vote, k = {asked.k}", "queries answered, %", "error, %")
    return figure
