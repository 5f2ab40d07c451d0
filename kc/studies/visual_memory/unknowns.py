"""Classes that are not in memory: can neighbour distance tell them, and what does abstaining buy?"""

from __future__ import annotations

from functools import cache

import numpy as np
from matplotlib.figure import Figure

from kc.memory.study import correct, nearest
from kc.memory.unknown import auroc, familiarity, fpr, risk_coverage
from kc.memory.vote import vote
from kc.report.style import looks
from kc.studies.record import Row, column, dress, panels
from kc.studies.visual_memory.command import Asked
from kc.studies.visual_memory.keys import answers
from kc.types import Neighbours

HIDDEN_SHARE = 0.2
COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


def hidden_classes(classes: list[int], seed: int) -> list[int]:
    """A fifth of the classes, at least one, at random."""
    n = max(1, round(HIDDEN_SHARE * len(classes)))
    return sorted(np.random.default_rng([seed, 5]).permutation(classes)[:n].tolist())


def run(asked: Asked) -> Figure:
    """A row a seed (which classes are hidden) and score: AUROC and FPR95 of unknown against known queries, and the
    risk of the rank vote on known queries at several coverages."""
    name = asked.encoders[0]
    train, test = (asked.source.keys(name, split) for split in ("train", "test"))
    classes = np.unique(train.label).tolist()
    for seed in asked.seeds:
        hidden = hidden_classes(classes, seed)

        @cache
        def found(seed: int = seed) -> Neighbours:
            kept = train.take(~np.isin(train.label, hidden_classes(classes, seed)))
            return nearest(answers(kept, test.key, asked.k), asked.k)

        for score in ("nearest", "kth", "mean", "agreement", "vote"):

            def row(seed: int = seed, score: str = score, hidden: list[int] = hidden) -> Row:
                known = ~np.isin(test.label, hidden)
                if score == "vote":
                    shares = vote(found(seed), classes, "softmax", **asked.knobs).numpy()
                    value = (shares / np.maximum(shares.sum(1, keepdims=True), 1e-300)).max(1)
                else:
                    value = familiarity(found(seed))[score]
                right = correct(found(seed), test.label, "rank", **asked.knobs)
                risks, area = risk_coverage(value[known], right[known], COVERAGES)
                return {
                    "seed": seed, "score": score, "hidden classes": len(hidden), "known": int(known.sum()),
                    "unknown": int((~known).sum()), "auroc": auroc(value[known], value[~known]),
                    "fpr95": fpr(value[known], value[~known]), "aurc": 100 * area,
                    **{f"risk at {100 * c:g} %": 100 * r for c, r in zip(COVERAGES, risks, strict=True)},
                }  # fmt: skip

            asked.study.row(f"{seed} {score}", row)
    figure, (left, right) = panels(2, width=4.2)
    scores = list(dict.fromkeys(r["score"] for r in asked.study.rows))
    look = looks(scores)
    for i, what in enumerate(("auroc", "fpr95")):
        means = [column([r for r in asked.study.rows if r["score"] == s], what).mean() for s in scores]
        left.bar(
            np.arange(len(scores)) + 0.4 * i - 0.2, means, 0.38, color=("#0072b2", "#d55e00")[i],
            label=("AUROC, higher is better", "FPR95, lower is better")[i],
        )  # fmt: skip
    left.set_xticks(range(len(scores)), scores)
    left.set_ylim(0, 1.25)
    left.legend(fontsize=8, frameon=False)
    dress(left, f"{asked.source.manifest.name}: a class that is not in memory", "", "mean of the seeds")
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
