"""`mask2former`: sequential fine-tuning of a mask classifier (Cheng et al. 2022, arXiv 2112.01527)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from kc.methods.finetune.heads import Head
from kc.methods.finetune.mask_head import MaskHead, MaskLoss
from kc.methods.finetune.mask_network import Queries
from kc.methods.finetune.mask_options import MASK_SPEC, MaskOptions
from kc.methods.finetune.module import GradientMethod
from kc.methods.finetune.replay import Replay
from kc.openvocab.mask_inference import OVERLAP, SCORE
from kc.types import Batch, Task


class Mask2Former(GradientMethod):
    """A network of its own (option `model`) in place of encoder and decoder; its classifier grows task by task.

    `--train head` freezes the backbone. What decoder the benchmark recommends plays no part.
    """

    name = "mask2former"
    spec = replace(
        MASK_SPEC,
        formula=r"\mathcal{L}_{mask} = \lambda_c \mathcal{L}_{CE} + \lambda_m \mathcal{L}_{BCE} "
        r"+ \lambda_d \mathcal{L}_{dice}",
    )
    may_train_encoder = False
    panoptic_limits = (SCORE, OVERLAP)
    """Score that a query must pass and share of its mask that it must win, to be a segment, where not given."""
    criterion: MaskLoss
    head: MaskHead
    options: MaskOptions

    def make_head(self) -> Head:
        return MaskHead(self.context, self.options.model, 1, self.limits())

    def limits(self) -> tuple[float, float]:
        """What a query must pass: as given, else those of the method's authors."""
        (score, overlap), given = self.panoptic_limits, self.options
        return score if given.score is None else given.score, overlap if given.overlap is None else given.overlap

    def start_task(self, task: Task) -> None:
        super().start_task(task)
        self.criterion = self.make_criterion(len(self.classifier.class_ids) - 1)

    def make_criterion(self, n_classes: int) -> MaskLoss:
        return MaskLoss(self.head.decoder.model.config, n_classes)

    def on_train_start(self) -> None:
        """A frozen backbone also stays in evaluation mode."""
        super().on_train_start()
        if not self.head.trains_backbone:
            self.head.decoder.backbone.eval()

    def loss_on(self, batch: Batch) -> Tensor:
        queries: Queries = self.head.decoder(self.features(batch))
        classes = [self.classifier(state) for state in queries.states]
        return self.criterion(classes, queries, self.head.mask_sets(batch))

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """The backbone, where it learns, at a share of the rate."""
        backbone = set(self.head.decoder.backbone.parameters())
        rates = {False: rate, True: rate * self.encoder_share}
        learns = self.trained().values()
        return [{"params": [p for p in learns if (p in backbone) == of], "lr": lr} for of, lr in rates.items()]


class Mask2FormerJoint(Mask2Former):
    """All tasks seen so far, with all their labels: the upper bound of `mask2former`."""

    name = "mask2former-joint"
    spec = replace(
        MASK_SPEC,
        summary="A mask classifier trained on all tasks seen so far: its upper bound.",
        keeps="its network, all images",
        formula=r"\mathcal{L}_{mask} \text{ over the images of tasks } 1 \ldots t",
        second_pass=True,
    )
    train_scope = "seen"


class Mask2FormerReplay(Replay, Mask2Former):
    """`mask2former` with exemplars of old tasks as half of every batch.

    Exemplars keep semantic maps, in panoptic benchmarks panoptic ones: there a crowd is void, for it is no mask.
    """

    name = "mask2former-replay"
    spec = replace(
        MASK_SPEC,
        summary="A mask classifier; half of every batch is stored images of old tasks.",
        keeps="its network, images",
        paper="Cheng et al. 2022, arXiv 2112.01527; Chaudhry et al. 2019, arXiv 1902.10486",
        formula=r"\mathcal{L}_{mask} \text{ over the batch and as many exemplars}",
        exemplars=True,
    )
    head: MaskHead
