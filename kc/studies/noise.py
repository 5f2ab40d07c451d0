"""Wrong labels at random in the memory: what they cost each vote, and how well leave-one-out finds them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
from matplotlib.figure import Figure

from kc.errors import KcError
from kc.memory.vote.evaluation import accuracies, detection, first_k, inject_label_noise, with_labels
from kc.memory.vote.pruning import NeighbourTable, disagreement, leave_one_out
from kc.memory.vote.votes import VOTES
from kc.report.style import looks
from kc.studies.base import Row, column, numbers
from kc.studies.figures import curve, legend, panels, style_axes
from kc.studies.keys import VoteStudy, memory_of
from kc.studies.options import SeededOptions, StudySpec
from kc.types import Neighbours

N_NEIGHBOURS = 10
"""Neighbours that are compared with a label; a row is suspected where more than half of them disagree."""


@dataclass(frozen=True)
class NoiseOptions(SeededOptions):
    """Options of noise.

    Args:
        shares: Wrong labels, in per cent of the rows, separated by commas.
    """

    shares: str = "0,10,20,30,40,50,60"


class Noise(VoteStudy[NoiseOptions]):
    """A row a share and seed: AUROC, precision and recall of the search for wrong labels, accuracy of each vote."""

    spec = StudySpec(
        summary="Wrong labels in memory: what they cost each vote, and how well they are found.",
        plots="accuracy of each vote, and how well wrong labels are found, against their share",
        options=NoiseOptions,
    )

    def run(self) -> Figure:
        shares = numbers("shares", self.options.shares)
        if not all(0 <= share <= 100 for share in shares):
            raise KcError(f"--shares {self.options.shares}: expected per cent from 0 to 100")
        train, test = self.both()

        @cache
        def searched() -> tuple[NeighbourTable, Neighbours]:
            with memory_of(train.rows()) as memory:
                return leave_one_out(memory, N_NEIGHBOURS), memory.search(test.key, self.clamp(self.k, len(train)))

        def row(share: float, seed: int) -> Row:
            table, found = searched()
            labels, wrong = inject_label_noise(train.label, share / 100, seed)
            noisy = replace(table, class_id=labels)
            k = noisy.neighbour_id.shape[1]
            against = disagreement(noisy, k)
            quality = detection(against, against > k / 2, wrong)
            noisy_found = with_labels(first_k(found, self.k), np.arange(len(train)), labels)
            scores = accuracies(noisy_found, test.label, [self.k], **self.votes)
            return {
                "noise": share, "seed": seed, "auroc": quality.auroc, "precision": quality.precision,
                "recall": quality.recall, **{kind: 100 * scores[kind][0] for kind in VOTES},
            }  # fmt: skip

        for share in shares:
            for seed in self.seeds:
                self.row(f"{share:g} {seed}", partial(row, share, seed))
        figure, (left, right) = panels(2)
        noise = column(self.rows, "noise")

        def mean(what: str, of: tuple[float, ...] = shares) -> list[float]:
            values = column(self.rows, what)
            return [float(values[noise == s].mean()) for s in of]

        look = looks(list(VOTES))
        for kind in VOTES:
            curve(left, shares, mean(kind), look[kind], kind)
        legend(left)
        title = f"{self.source.manifest.name}, {self.encoders[0]}, k = {self.k}"
        style_axes(left, title, "wrong labels in memory, %", "accuracy, %")
        found = ("auroc", "precision", "recall")
        look, some = looks(found), tuple(s for s in shares if s > 0)  # without a wrong label there is none to find
        for what in found:
            curve(right, some, mean(what, some), look[what], "AUROC" if what == "auroc" else what)
        right.set_ylim(0, 1.02)
        legend(right)
        style_axes(right, f"wrong labels found by {N_NEIGHBOURS} neighbours", "wrong labels in memory, %", "")
        return figure
