"""Random wrong labels in the memory: what they cost each vote, and how well leave-one-out finds them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from matplotlib.figure import Figure

from kc.memory.vote.evaluation import accuracies, detection, first_k, inject_label_noise, with_labels
from kc.memory.vote.pruning import NeighbourTable, disagreement, leave_one_out
from kc.memory.vote.votes import VOTES
from kc.report.style import looks
from kc.studies.record import column, dress, panels
from kc.studies.visual_memory.command import Asked
from kc.studies.visual_memory.keys import memory_of
from kc.types import Neighbours

SHARES = (0, 10, 20, 30, 40, 50, 60)
N_QUERIES = 10
"""Neighbours that are asked whether a label is wrong; a row is suspected where more than half of them disagree."""


def run(asked: Asked) -> Figure:
    """A row a share and seed: AUROC, precision and recall of the search for wrong labels, accuracy of each vote."""
    name = asked.encoders[0]
    train, test = (asked.source.keys(name, split) for split in ("train", "test"))

    @cache
    def searched() -> tuple[NeighbourTable, Neighbours]:
        with memory_of(train) as memory:
            return leave_one_out(memory, N_QUERIES), memory.search(test.key, asked.clamp(asked.k, len(train)))

    for share in SHARES:
        for seed in asked.seeds:

            def row(share: int = share, seed: int = seed) -> dict[str, object]:
                table, found = searched()
                labels, wrong = inject_label_noise(train.label, share / 100, seed)
                noisy = replace(table, class_id=labels)
                k = noisy.neighbour_id.shape[1]
                against = disagreement(noisy, k)
                quality = detection(against, against > k / 2, wrong)
                heard = with_labels(first_k(found, asked.k), np.arange(len(train)), labels)
                scores = accuracies(heard, test.label, [asked.k], **asked.knobs)
                return {
                    "noise": share, "seed": seed, "auroc": quality.auroc, "precision": quality.precision,
                    "recall": quality.recall, **{kind: 100 * scores[kind][0] for kind in VOTES},
                }  # fmt: skip

            asked.study.row(f"{share} {seed}", row)
    figure, (left, right) = panels(2)
    rows = asked.study.rows
    shares = column(rows, "noise")

    def mean(what: str) -> list[float]:
        values = column(rows, what)
        return [float(values[shares == s].mean()) for s in SHARES]

    look = looks(list(VOTES))
    for kind in VOTES:
        style = look[kind]
        left.plot(
            SHARES,
            mean(kind),
            color=style.color,
            marker=style.marker,
            markersize=4,
            dashes=style.dash or (),
            label=kind,
        )
    left.legend(fontsize=8, frameon=False)
    dress(left, f"{asked.source.manifest.name}, {name}, k = {asked.k}", "wrong labels in memory, %", "accuracy, %")
    look = looks(["auroc", "precision", "recall"])
    for what in ("auroc", "precision", "recall"):
        style = look[what]
        label = "AUROC" if what == "auroc" else what
        # Without a wrong label there is none to find.
        right.plot(SHARES[1:], mean(what)[1:], color=style.color, marker=style.marker, markersize=4, label=label)
    right.set_ylim(0, 1.02)
    right.legend(fontsize=8, frameon=False)
    dress(right, f"wrong labels found by {N_QUERIES} neighbours", "wrong labels in memory, %", "")
    return figure
