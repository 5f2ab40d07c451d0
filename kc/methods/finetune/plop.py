"""`plop` (Douillard et al. 2021, arXiv 2011.11390): local POD and pseudo-labels where the old model is sure.

The paper pools features as they are; the public code squares them first (`--pod_prepro pow`, its default). Both are
here: `squared`. The code cuts cells by the width alone and drops a remainder; here cells cover the whole map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kc.methods.base import Context
from kc.methods.distributed import weight_of_rows
from kc.methods.finetune.mib import start_as_background
from kc.methods.finetune.module import Previous
from kc.methods.finetune.per_pixel import Maps, PerPixel
from kc.methods.finetune.pseudo_labels import EntropyFilter, paint, valid_fraction, weighted_cross_entropy
from kc.spec import DENSE, MethodSpec, NonNegative, Tunable
from kc.types import Batch, Task

SCALES = (1, 2, 4)


def strips(x: Tensor, scales: Sequence[int] = SCALES) -> Tensor:
    """Means (N, D) over the columns and the rows of every cell of every scale of x (N, C, h, w).

    `scales`: cells a side; no more than the map has rows or columns are made.
    """
    parts: list[Tensor] = []
    for n in scales:
        for band in x.tensor_split(min(n, x.shape[2]), dim=2):
            for cell in band.tensor_split(min(n, x.shape[3]), dim=3):
                parts += [cell.mean(3).flatten(1), cell.mean(2).flatten(1)]
    return torch.cat(parts, dim=1)


def local_pod(new: Tensor, old: Tensor, scales: Sequence[int] = SCALES, *, squared: bool = False) -> Tensor:
    """Mean over images of the Euclidean distance between the strips of two maps (N, C, h, w).

    `squared`: square the maps before they are pooled, as the authors' code does.
    """
    if squared:
        new, old = new.square(), old.square()
    # Pooling is linear: the difference is pooled once instead of both maps.
    distance: Tensor = torch.linalg.vector_norm(strips(new - old, scales), dim=1)
    return distance.mean()


def fold_new(logits: Tensor, n_old: int) -> Tensor:
    """(N, |O|, h, w): logits (N, C, h, w) with those of the new classes added to the background's, column 0."""
    background = logits[:, :1] + logits[:, n_old:].sum(1, keepdim=True)
    return torch.cat([background, logits[:, 1:n_old]], dim=1)


def pod_loss(
    new: Sequence[Tensor], old: Sequence[Tensor], logits: Tensor, old_logits: Tensor,
    *, feature_weight: float, logit_weight: float, squared: bool = False,
) -> Tensor:  # fmt: skip
    """Mean over layers of the weighted local POD, times sqrt(C_all / C_new).

    Args:
        new: L - 1 feature maps of the model that learns, each (N, C_l, h_l, w_l).
        old: those of the old model.
        logits: (N, C_all, h, w), the last layer; new classes are added to the background.
        old_logits: (N, C_all - C_new, h, w) of the old model.
        feature_weight: factor of the feature maps.
        logit_weight: factor of the logits.
        squared: see `local_pod`.
    """
    n_all, n_old = logits.shape[1], old_logits.shape[1]
    total = logit_weight * local_pod(fold_new(logits, n_old), old_logits, squared=squared)
    for a, b in zip(new, old, strict=True):
        total = total + feature_weight * local_pod(a, b, squared=squared)
    return total * math.sqrt(n_all / (n_all - n_old)) / (len(new) + 1)


@dataclass(frozen=True)
class PlopOptions:
    """Options of PLOP.

    Args:
        features: Weight of local POD on feature maps; 0.01 for VOC, 0.001 for ADE20K.
        logits: Weight of local POD on logits; 0.0005 for VOC, 0.00001 for ADE20K.
        entropy: How pseudo-labels are accepted: paper (entropy below the median of its class) or official (as the
            authors' code does, which hardly ever rejects where there are many classes).
        pod: What local POD pools: paper (features as they are) or official (squared, as the authors' code does).
    """

    features: NonNegative = 0.01
    logits: NonNegative = 0.0005
    entropy: Literal["paper", "official"] = "paper"
    pod: Literal["paper", "official"] = "paper"


class Plop(PerPixel):
    """Cross entropy on labels and accepted pseudo-labels, local POD on features and logits, MiB's classifier start.

    POD compares what is trained: the encoder's levels (with `--train full`), what the classifier reads, the logits.
    """

    name = "plop"
    spec = MethodSpec(
        summary="Distils strip averages at several scales, and labels the background where the old model is sure.",
        keeps="nothing",
        paper="Douillard et al. 2021, arXiv 2011.11390",
        formula=r"\mathcal{L} = \nu \mathcal{L}_{CE}(\tilde y) + \frac{\lambda}{L} \sum_l "
        r"\lVert \Phi(h_l) - \Phi(h_l^{old}) \rVert_2",
        options=PlopOptions,
        kinds=DENSE,
        streams=("class", "task", "online", "long-tailed"),
        pixels=True,
        second_pass=True,
        background=True,
        tune=Tunable("features"),
    )
    options: PlopOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._filter: EntropyFilter | None = None
        self._thresholds: Tensor | None = None

    def start_task(self, task: Task) -> None:
        super().start_task(task)
        start_as_background(self)

    def on_train_start(self) -> None:
        """One pass over the task's images with the old model, for the medians of its entropy."""
        super().on_train_start()
        if self.previous is not None:
            self._filter = self.entropies(self.previous, self.task_batches())
            self._thresholds = self._filter.thresholds()

    @torch.no_grad()
    def entropies(self, previous: Previous, batches: Iterable[Batch]) -> EntropyFilter:
        """The old model's entropy over the unlabelled pixels of `batches`, counted."""
        n_old, n_all = len(previous.class_ids), len(self.classifier.class_ids)
        chooser = EntropyFilter(n_old, n_all, self.options.entropy)
        for batch in batches:
            network = previous.network
            features = self.context.encode(batch) if network is None else network(batch["image"])
            pixels = self.maps(previous, features, network).pixels
            chooser.observe(pixels, self.unlabelled(self.pixel_head.columns(self.head.target(batch), pixels)))
        return chooser

    def loss_against(self, new: Maps, old: Maps, target: Tensor) -> Tensor:
        assert self._filter is not None
        assert self._thresholds is not None
        unlabelled = self.unlabelled(target)
        accepted = self._filter.accepts(old.pixels, self._thresholds)
        labels = paint(target, old.pixels, unlabelled, accepted)
        ce = weighted_cross_entropy(new.pixels, labels, valid_fraction(unlabelled, accepted))
        pod = pod_loss(
            [*new.levels, new.body],
            [*old.levels, old.body],
            new.logits,
            old.logits,
            feature_weight=self.options.features,
            logit_weight=self.options.logits,
            squared=self.options.pod == "official",
        )
        return (ce + pod) * weight_of_rows(target)
