"""`mib`: modelling the background (Cermelli et al. 2020, arXiv 2002.00718).

Column 0 of every tensor is the background: in step t it stands for every class that is not labelled in step t. O are
the columns of the old model (background included), N the new ones, `lse` is logsumexp over columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kc.methods.distributed import weight_of_rows
from kc.methods.finetune.heads import copy_column
from kc.methods.finetune.losses import IGNORED, at_resolution
from kc.methods.finetune.per_pixel import Maps, PerPixel
from kc.spec import DENSE, MethodSpec, NonNegative, Tunable
from kc.types import Task


def unbiased_cross_entropy(logits: Tensor, target: Tensor, n_old: int) -> Tensor:
    """Cross entropy where "background" may be any old class: log p_0 = lse(z_O) - lse(z) (equation 5).

    Args:
        logits: (N, C, h, w).
        target: (N, H, W) int64 columns or IGNORED; a column below `n_old` counts as background.
        n_old: |O|, columns of the old model; 1 gives plain cross entropy.

    Returns:
        Mean over the pixels that are not IGNORED; zero (with a gradient) when there is none.
    """
    target = at_resolution(target, logits.shape[-2:])
    log_all = logits.logsumexp(1, keepdim=True)
    log_p = torch.cat([logits[:, :n_old].logsumexp(1, keepdim=True), logits[:, n_old:]], dim=1) - log_all
    merged = torch.where(target == IGNORED, target, (target - n_old + 1).clamp(min=0))
    if not bool((merged != IGNORED).any()):
        return logits.sum() * 0.0
    return F.nll_loss(log_p, merged, ignore_index=IGNORED)


def unbiased_distillation(logits: Tensor, old_logits: Tensor) -> Tensor:
    """Distillation where the old background covers the new classes: log p_0 = lse(z_0, z_N) - lse(z) (equation 7).

    Args:
        logits: (N, C, h, w) of the model that learns.
        old_logits: (N, |O|, h, w) of the old model, |O| <= C.

    Returns:
        -mean over pixels of (1 / |O|) sum_{c in O} q_c log p_c, q = softmax(old_logits).
    """
    n_old = old_logits.shape[1]
    background = torch.cat([logits[:, :1], logits[:, n_old:]], dim=1).logsumexp(1, keepdim=True)
    log_p = torch.cat([background, logits[:, 1:n_old]], dim=1) - logits.logsumexp(1, keepdim=True)
    return -(old_logits.softmax(1) * log_p).sum(1).mean() / n_old


@torch.no_grad()
def spread_background(background: nn.Linear | nn.Conv2d, new: nn.Linear | nn.Conv2d) -> None:
    """Start the new classes as equal parts of the background (section 3.4): w_new = w_0, b_new = b_0 - log(|N| + 1).

    The background's bias falls by as much, so that the probability of "background or new" is what it was.
    `background` has one column; `new` has |N|. Both are changed in place.
    """
    assert background.bias is not None
    background.bias -= math.log(new.weight.shape[0] + 1)
    copy_column(background, new)


@dataclass(frozen=True)
class MibOptions:
    """Options of MiB.

    Args:
        kd: Weight of the unbiased distillation.
    """

    kd: NonNegative = 10.0


class Mib(PerPixel):
    """Unbiased cross entropy + 10 x unbiased distillation; new classes start as parts of the background."""

    name = "mib"
    spec = MethodSpec(
        summary="Background as the union of all that is not labelled, in the loss and in the distillation.",
        keeps="nothing",
        paper="Cermelli et al. 2020, arXiv 2002.00718",
        formula=r"\mathcal{L} = -\log \hat p_y + \lambda \mathcal{L}_{KD}, \quad "
        r"\log \hat p_0 = \operatorname{lse}(z_O) - \operatorname{lse}(z)",
        options=MibOptions,
        kinds=DENSE,
        streams=("class", "task", "online", "long-tailed"),
        pixels=True,
        background=True,
        tune=Tunable("kd"),
    )
    options: MibOptions

    def start_task(self, task: Task) -> None:
        super().start_task(task)
        start_as_background(self)

    def loss_against(self, new: Maps, old: Maps, target: Tensor) -> Tensor:
        kd = unbiased_distillation(new.pixels, old.pixels)
        ce = unbiased_cross_entropy(new.pixels, target, old.pixels.shape[1]) * self.weight(target)
        return ce + self.options.kd * kd * weight_of_rows(target)


def start_as_background(method: PerPixel) -> None:
    """MiB's start of the newest columns, where the task brought any and was not the first."""
    head = method.classifier
    if method.previous is None or len(head.class_ids) == len(method.previous.classifier.class_ids):
        return
    spread_background(cast(nn.Conv2d, head.steps[0]), cast(nn.Conv2d, head.steps[-1]))
