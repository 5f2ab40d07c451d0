"""`plop` (Douillard et al. 2021, arXiv 2011.11390): local POD and pseudo-labels where the old model is sure.

The paper pools features as they are; the public code squares them first (`--pod_prepro pow`, its default). Both are
here: `squared`. The code cuts cells by the width alone and drops a remainder; here cells cover the whole map.

A pixel is accepted whose entropy is below the median of its predicted class. The entropy filter has two readings,
because the authors' code departs from the paper:

- `paper`: entropy -sum_c p_c log p_c against the class's median.
- `official` (CVPR2021_PLOP at 4b4a060, `Trainer.find_median`): the entropy is divided by |O| log |O| log C_all, so that
  it never exceeds 1 / (|O| log C_all); the median comes from 100 bins over [0, 1], counting up bin numbers instead of
  pixels; the threshold is at least 0.001. With 101 old columns of ADE the largest possible entropy, 0.0021, lies below
  the smallest median that 100 bins can give, 0.005: nothing is ever rejected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kc.methods.base import Context
from kc.methods.distributed import weight_of_rows
from kc.methods.finetune.losses import IGNORED, at_resolution
from kc.methods.finetune.mib import start_as_background
from kc.methods.finetune.module import Previous
from kc.methods.finetune.per_pixel import Maps, PerPixel
from kc.spec import DENSE, MethodSpec, NonNegative, Tunable
from kc.types import Batch, Task

OFFICIAL_BINS = 100
OFFICIAL_FLOOR = 0.001
PAPER_BINS = 4096


class EntropyFilter:
    """The per-class medians of the old model's entropy over the unlabelled pixels of a task.

    Show it every batch with `observe`, then ask `accepts`. The paper's median is read from 4096 bins, linear in the
    fourth root of the entropy because a trained model is nearly sure of most pixels.

    Args:
        n_old: |O|, columns of the old model.
        n_all: columns of the new one (the official reading divides by its logarithm).
        reading: `paper` or `official`.
    """

    def __init__(self, n_old: int, n_all: int, reading: str = "paper") -> None:
        self.reading = reading
        self.n_old, self.n_all = n_old, n_all
        self.counts = torch.zeros(n_old, PAPER_BINS if reading == "paper" else OFFICIAL_BINS, dtype=torch.int64)

    def uncertainty(self, old_logits: Tensor) -> Tensor:
        """(N, h, w) in [0, 1]: the entropy at each pixel of (N, |O|, h, w), on the scale of the reading."""
        p = old_logits.softmax(1)
        n = p.shape[1]
        if self.reading == "paper":
            entropy: Tensor = torch.special.entr(p).sum(1) / math.log(max(2, n))
            return entropy.clamp(0, 1) ** 0.25
        entropy = -(p * torch.log(p + 1e-8)).mean(1) / math.log(n + 1e-8)
        return entropy / math.log(self.n_all)

    def observe(self, old_logits: Tensor, unlabelled: Tensor) -> None:
        """Count the pixels of a batch: `old_logits` (N, |O|, h, w), `unlabelled` (N, h, w) bool."""
        n_bins = self.counts.shape[1]
        bins = (self.uncertainty(old_logits)[unlabelled] * n_bins).long().clamp(0, n_bins - 1)
        place = old_logits.argmax(1)[unlabelled] * n_bins + bins
        found = torch.bincount(place.cpu(), minlength=self.counts.numel())
        self.counts += found.reshape(self.counts.shape)

    def thresholds(self) -> Tensor:
        """(|O|,) float64 on the scale of `uncertainty`; NaN (paper) or the floor (official) where never predicted."""
        median = _median if self.reading == "paper" else _official_median
        values = torch.tensor([median(row) for row in self.counts.tolist()], dtype=torch.float64)
        values /= self.counts.shape[1]
        if self.reading == "official":
            return values.nan_to_num(nan=0.0, posinf=math.inf).clamp(min=OFFICIAL_FLOOR)
        return values

    def accepts(self, old_logits: Tensor, thresholds: Tensor) -> Tensor:
        """(N, h, w) bool: where the old model is surer than the median of the class it predicts."""
        uncertainty = self.uncertainty(old_logits)
        return uncertainty < thresholds.to(uncertainty)[old_logits.argmax(1)]


def _median(counts: list[int]) -> float:
    """The median in bins (0 .. number of bins), linear inside its bin; NaN without a count."""
    half, passed = sum(counts) / 2, 0
    for position, count in enumerate(counts):
        if count and passed + count >= half:
            return position + (half - passed) / count
        passed += count
    return math.nan


def _official_median(counts: list[int]) -> float:
    """The median as the authors' code finds it: the first bin that holds half of the pixels alone, or nearly so.

    Its running sum grows by the bin's number, not by its count. Without such a bin the result is infinite.
    """
    half, passed = sum(counts) / 2, 0
    if half == 0:
        return math.nan
    for position, count in enumerate(counts):
        if count and passed <= half <= passed + count:
            return position + (half - passed) / count
        passed += position
    return math.inf if half > passed else -math.inf


def paint(target: Tensor, old_logits: Tensor, unlabelled: Tensor, accepted: Tensor) -> Tensor:
    """(N, h, w) columns: labels where there are any, the old model's class where it is accepted, IGNORED elsewhere.

    Args:
        target: (N, H, W) int64 columns or IGNORED, read at the resolution of `old_logits`.
        old_logits: (N, |O|, h, w).
        unlabelled: (N, h, w) bool, pixels whose label says nothing of the old classes.
        accepted: (N, h, w) bool.
    """
    target = at_resolution(target, old_logits.shape[-2:])
    found = torch.where(accepted, old_logits.argmax(1), IGNORED)
    return torch.where(unlabelled, found, target)


def valid_fraction(unlabelled: Tensor, accepted: Tensor) -> Tensor:
    """(N,) in [0, 1]: the share of each image's unlabelled pixels that was accepted (PLOP's nu); 0 without any.

    Where few are accepted, the new classes would outweigh the old ones; the cross entropy of the image is multiplied
    by this.
    """
    n = unlabelled.flatten(1).sum(1)
    return (unlabelled & accepted).flatten(1).sum(1) / n.clamp(min=1)


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over all pixels, IGNORED ones counted as zero, of the cross entropy times its image's weight.

    Args:
        logits: (N, C, h, w).
        target: (N, h, w) int64 columns or IGNORED.
        weight: (N,).
    """
    loss = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")
    return (loss * weight.to(loss)[:, None, None]).mean()


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
        n_old, n_all = len(previous.classifier.class_ids), len(self.classifier.class_ids)
        chooser = EntropyFilter(n_old, n_all, self.options.entropy)
        for batch in batches:
            network = previous.network
            features = self.context.encode(batch) if network is None else network(batch["image"])
            pixels = self.maps(previous, features, network).pixels
            chooser.observe(pixels, self.unlabelled(self.head.columns(self.head.target(batch), pixels)))
        return chooser

    def loss_against(self, new: Maps, old: Maps, target: Tensor) -> Tensor:
        assert self._filter is not None
        assert self._thresholds is not None
        unlabelled = self.unlabelled(target)
        accepted = self._filter.accepts(old.pixels, self._thresholds)
        labels = paint(target, old.pixels, unlabelled, accepted)
        ce = weighted_cross_entropy(new.pixels, labels, valid_fraction(unlabelled, accepted))
        options, squared = self.options, self.options.pod == "official"
        pod = pod_loss(
            [*new.levels, new.body], [*old.levels, old.body], new.logits, old.logits,
            feature_weight=options.features, logit_weight=options.logits, squared=squared,
        )  # fmt: skip
        return (ce + pod) * weight_of_rows(target)
