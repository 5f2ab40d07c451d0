"""What the old model says where nothing is labelled: accepted where it is sure, void elsewhere.

PLOP (Douillard et al. 2021, arXiv 2011.11390) accepts a pixel whose entropy is below the median of its predicted
class; SSUL (Cha et al. 2021, arXiv 2106.11562) one whose sigmoid reaches a threshold. The entropy filter has two
readings, because the authors' code departs from the paper:

- `paper`: entropy -sum_c p_c log p_c against the class's median.
- `official` (CVPR2021_PLOP at 4b4a060, `Trainer.find_median`): the entropy is divided by |O| log |O| log C_all, so that
  it never exceeds 1 / (|O| log C_all); the median comes from 100 bins over [0, 1], counting up bin numbers instead of
  pixels; the threshold is at least 0.001. With 101 old columns of ADE the largest possible entropy, 0.0021, lies below
  the smallest median that 100 bins can give, 0.005: nothing is ever rejected.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kc.methods.finetune.losses import IGNORED, at_resolution

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
