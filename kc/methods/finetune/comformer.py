"""`comformer` (Cermelli et al. 2023, arXiv 2211.13999): pseudo-masks and distillation of queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kc.methods.base import Batch
from kc.methods.finetune.mask2former import Mask2Former
from kc.methods.finetune.mask_network import Queries
from kc.methods.finetune.mask_options import MaskOptions
from kc.methods.finetune.query_distillation import pseudo_masks, query_distillation
from kc.openvocab.mask_inference import at_size
from kc.spec import DENSE, MethodSpec, NonNegative, Tunable
from kc.types import HIDDEN


@dataclass(frozen=True)
class ComformerOptions(MaskOptions):
    """Options of CoMFormer.

    Args:
        kd: Weight of the distillation of queries.
    """

    kd: NonNegative = 10.0


class CoMFormer(Mask2Former):
    """Mask2Former's loss on labelled masks and those of the old model, + 10 x distillation of the last stage's classes.

    The authors change the base network too (a softmax over masks, focal loss); here it is Mask2Former as it is. Where
    hidden labels become the background class (semantic benchmarks that have one), its pixels are left to the old model
    after the first task.
    """

    name = "comformer"
    spec = MethodSpec(
        summary="A mask classifier with pseudo-masks of the old model and distillation of queries.",
        keeps="its network",
        paper="Cermelli et al. 2023, arXiv 2211.13999",
        formula=r"\mathcal{L} = \mathcal{L}_{mask}(\tilde y) + \lambda \sum_q (1 - q_0)^2 \, KL(q, \hat p)",
        options=ComformerOptions,
        kinds=DENSE,
        streams=("class", "task", "online", "long-tailed"),
        mask_classifier=True,
        pixels=True,
        package="transformers",
        extra="masks",
        tune=Tunable("kd"),
    )
    options: ComformerOptions
    keeps_previous = True

    def loss_on(self, batch: Batch) -> Tensor:
        """The base loss in the first task, then the whole."""
        if self.previous is None:
            return super().loss_on(batch)
        features = self.features(batch)
        queries: Queries = self.head.decoder(features)
        classes = [self.classifier(state) for state in queries.states]
        with torch.no_grad():
            old: Queries = self.previous.decoder(features)
            old_classes: Tensor = self.previous.classifier(old.states[-1])
        sets = self.mask_head.mask_sets(self._without_background(batch))
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
