"""`comformer` (Cermelli et al. 2023, arXiv 2211.13999): pseudo-masks and distillation of queries."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kc.methods.distributed import mean_of
from kc.methods.finetune.mask2former import Mask2Former
from kc.methods.finetune.mask_head import MaskSet
from kc.methods.finetune.mask_network import Queries
from kc.methods.finetune.mask_options import MASK_SPEC, MaskOptions
from kc.openvocab.mask_inference import at_size
from kc.spec import NonNegative, Tunable
from kc.types import HIDDEN, Batch

KEPT = 0.5
GAMMA = 2.0


def query_distillation(logits: Tensor, old_logits: Tensor, gamma: float = GAMMA) -> Tensor:
    """Divergence of each query's classes from the old model's, weighted by how sure that was to see an object.

    Args:
        logits: (N, Q, 1 + C) of the model that learns, column 0 "no object".
        old_logits: (N, Q, 1 + O) of the old model, O <= C, the same queries and columns.
        gamma: exponent of the weight (1 - q_0)^gamma; 0 counts all queries alike.

    Returns:
        The weighted mean over the queries, of all processes that learn together, of KL(q || p). As in MiB, p_0 of the
        new model is "no object or a new class", because the old model saw no object where there is a class that it had
        not learned.
    """
    n_old = old_logits.shape[-1]
    nothing = torch.cat([logits[..., :1], logits[..., n_old:]], dim=-1).logsumexp(-1, keepdim=True)
    log_p = torch.cat([nothing, logits[..., 1:n_old]], dim=-1) - logits.logsumexp(-1, keepdim=True)
    log_q = old_logits.log_softmax(-1)
    q = log_q.exp()
    divergence = (q * (log_q - log_p)).sum(-1)
    weight = (1 - q[..., 0]) ** gamma
    return (weight * divergence).sum() / mean_of(weight.sum()).clamp_min(torch.finfo(weight.dtype).tiny)


@torch.no_grad()
def pseudo_masks(classes: Tensor, masks: Tensor, taken: Tensor) -> MaskSet:
    """The old model's segments where nothing is labelled.

    Queries whose best column is a class compete, by score x mask, for the pixels that are not `taken`. A mask is where
    its query wins and is at least 1/2; it stays if it won more than half as many pixels as it has.

    Args:
        classes: (Q, 1 + O) logits, column 0 "no object".
        masks: (Q, H, W) logits.
        taken: (H, W) bool, pixels of a labelled mask.

    Returns:
        Masks (n, H, W) float and columns (n,) int64, n <= Q.
    """
    best, column = classes.softmax(-1).max(-1)
    keep = column > 0
    inside, columns = masks[keep].sigmoid(), column[keep]
    if not len(columns):
        return masks.new_zeros(0, *masks.shape[1:]), columns
    number = torch.arange(len(columns), device=masks.device)[:, None, None]
    won = ((best[keep][:, None, None] * inside).argmax(0) == number) & ~taken
    own = inside >= 0.5
    share = won.sum((1, 2)) / own.sum((1, 2)).clamp_min(1)
    painted = won & own
    stays = (share > KEPT) & painted.flatten(1).any(1)
    return painted[stays].to(masks), columns[stays]


@dataclass(frozen=True)
class ComformerOptions(MaskOptions):
    """Options of CoMFormer.

    Args:
        kd: Weight of the distillation of queries.
    """

    kd: NonNegative = 10.0


class CoMFormer(Mask2Former):
    """Mask2Former's loss on labelled masks and those of the old model, + 10 x distillation of the last stage's classes.

    The authors' softmax over masks and focal loss are left out. Where hidden labels become the background class
    (semantic benchmarks that have one), its pixels are left to the old model after the first task.
    """

    name = "comformer"
    spec = replace(
        MASK_SPEC,
        summary="A mask classifier with pseudo-masks of the old model and distillation of queries.",
        paper="Cermelli et al. 2023, arXiv 2211.13999",
        formula=r"\mathcal{L} = \mathcal{L}_{mask}(\tilde y) + \lambda \sum_q (1 - q_0)^2 \, KL(q, \hat p)",
        options=ComformerOptions,
        streams=("class", "task", "online", "long-tailed"),
        tune=Tunable("kd"),
    )
    options: ComformerOptions
    keeps_previous = True

    def loss_on(self, batch: Batch) -> Tensor:
        if self.previous is None:
            return super().loss_on(batch)
        features = self.features(batch)
        queries: Queries = self.head.decoder(features)
        classes = [self.classifier(state) for state in queries.states]
        with torch.no_grad():
            old: Queries = self.previous.decoder(features)
            old_classes: Tensor = self.previous.classifier(old.states[-1])
        sets = self.head.mask_sets(self._without_background(batch))
        for row, (masks, columns) in enumerate(sets):
            full = at_size(old.masks[-1][row], (masks.shape[1], masks.shape[2]))
            more, theirs = pseudo_masks(old_classes[row], full, masks.bool().any(0))
            sets[row] = (torch.cat([masks, more]), torch.cat([columns, theirs]))
        kd = query_distillation(classes[-1], old_classes)
        return self.criterion(classes, queries, sets) + self.options.kd * kd

    def _without_background(self, batch: Batch) -> Batch:
        nothing = self.context.background_id
        if nothing is None or self.context.kind == "panoptic":
            return batch
        labels = batch["semantic"]
        return {**batch, "semantic": torch.where(labels == nothing, HIDDEN, labels)}
