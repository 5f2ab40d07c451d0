"""`mask2former`: sequential fine-tuning of a mask classifier (Cheng et al. 2022, arXiv 2112.01527)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kc.encoders.cache import FeatureCache
from kc.errors import KcError
from kc.methods.base import Batch, Context, as_map, n_bytes
from kc.methods.finetune.heads import GrowingClassifier
from kc.methods.finetune.mask_network import EncoderBackbone, MaskNetwork, Queries, load_mask_network
from kc.methods.finetune.mask_targets import MaskLoss, MaskSet, mask_sets
from kc.methods.finetune.module import FinetuneModule
from kc.methods.finetune.replay import Replay
from kc.openvocab.mask_inference import OVERLAP, SCORE, at_size, instances, panoptic_map, semantic_scores
from kc.types import HIDDEN, VOID, Features, Prediction, Task

NO_OBJECT = HIDDEN - 1
"""What names the first column of the classifier, which is no class and no label."""


class Mask2Former(FinetuneModule):
    """A network of its own (`--mask-model`) in place of encoder and decoder; its classifier grows task by task.

    Column 0 is "no object". Hidden and void pixels belong to no mask. `--train head` freezes the backbone.
    """

    name = "mask2former"
    panoptic_limits = (SCORE, OVERLAP)
    """Score that a query must pass and share of its mask that it must win, to be a segment, where not given."""
    classifier_layers = 1

    def __init__(self, context: Context) -> None:
        if context.kind == "classification":
            raise KcError(f"method {self.name!r} labels pixels; this benchmark is classification")
        super().__init__(context)
        self.regions, self.needs_raw = None, False  # it finds its own masks, whatever decoder the benchmark recommends
        network = load_mask_network(context.config.mask_model, context.encoder)
        network.backbone.requires_grad_(context.config.train == "full")
        self.decoder = network
        self.classifier = GrowingClassifier(network.width, layers=self.classifier_layers)
        self.classifier.grow([NO_OBJECT])
        self.criterion: MaskLoss | None = None
        backbone = network.backbone
        self.pyramids: FeatureCache | None = None
        """Levels of a frozen backbone that is the run's encoder."""
        if isinstance(backbone, EncoderBackbone) and context.config.train == "head":
            self.pyramids = FeatureCache(context.features.folder, backbone.pyramid)

    @property
    def trains_all(self) -> bool:
        """The shared encoder is not read at all."""
        return False

    @property
    def needs_images(self) -> bool:
        """Always: nothing of it is cached beforehand."""
        return True

    def start_task(self, task: Task) -> None:
        """Grow the classifier, and the loss with it."""
        super().start_task(task)
        self.criterion = self.make_criterion(len(self.classifier.class_ids) - 1)

    def make_criterion(self, n_classes: int) -> MaskLoss:
        """The loss of a task."""
        return MaskLoss(self.mask_network.model.config, n_classes)

    @property
    def mask_network(self) -> MaskNetwork:
        """The network."""
        assert isinstance(self.decoder, MaskNetwork)
        return self.decoder

    def on_train_start(self) -> None:
        """A frozen backbone also stays in evaluation mode."""
        super().on_train_start()
        if self.context.config.train != "full":
            self.mask_network.backbone.eval()

    def features(self, batch: Batch) -> Features:
        """The levels of a frozen encoder, from the cache where it has them; else the images themselves."""
        if self.pyramids is None:
            return Features(batch["image"])
        return self.pyramids.encode(batch["image"], list(batch["sample_id"]))

    def mask_sets(self, batch: Batch) -> list[MaskSet]:
        """The masks to be learned of each image, under the columns of the head."""
        columns = {c: i for i, c in enumerate(self.classifier.class_ids) if i > 0}
        return mask_sets(batch, columns)

    def loss_on(self, batch: Batch) -> Tensor:
        """Mask2Former's loss on the batch."""
        assert self.criterion is not None
        queries: Queries = self.decoder(self.features(batch))
        classes = [self.classifier(state) for state in queries.states]
        return self.criterion(classes, queries, self.mask_sets(batch))

    @torch.no_grad()
    def answers(self, batch: Batch, vocabulary: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Probabilities (N, Q, 1 + C) of "no object" and `vocabulary`, and mask logits (N, Q, h, w)."""
        queries: Queries = self.decoder(self.features(batch))
        columns = [0, *self.classifier.columns(vocabulary)]
        return self.classifier(queries.states[-1])[..., columns].softmax(-1), queries.masks[-1]

    def limits(self) -> tuple[float, float]:
        """What a query must pass: as given, else those of the method's authors."""
        given = (self.context.config.mask_score, self.context.config.mask_overlap)
        score, overlap = (
            own if value is None else value for value, own in zip(given, self.panoptic_limits, strict=True)
        )
        return score, overlap

    @torch.no_grad()
    def predict(self, batch: Batch, vocabulary: Sequence[int]) -> Prediction:
        """Semantic maps over `vocabulary`, whose classes must be learned; in panoptic benchmarks also panoptic ones and
        the scored instances of things."""
        vocab = tuple(vocabulary)
        classes, masks = self.answers(batch, vocab)
        ids = torch.tensor(vocab, device=classes.device)
        semantic, panoptic, things = [], [], []
        for p, small, size in zip(classes, masks, batch["original_size"], strict=True):
            full = at_size(small, size)
            semantic.append(as_map(ids[semantic_scores(p, full).argmax(0)]))
            if self.context.kind == "panoptic":
                panoptic.append(panoptic_map(p, full, vocab, self.context.thing_ids, *self.limits()))
                things.append(instances(p, full, vocab, self.context.thing_ids))
        return Prediction(vocab, semantic=semantic, panoptic=panoptic, instances=things)

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """The backbone, where it learns, at a share of the rate."""
        backbone = set(self.mask_network.backbone.parameters())
        learns: list[nn.Parameter] = list(self.trained().values())
        return [
            {"params": [p for p in learns if p not in backbone], "lr": rate},
            {"params": [p for p in learns if p in backbone], "lr": rate * self.encoder_share},
        ]

    def stored_bytes(self) -> int:
        """Bytes of the whole network: nothing of it is shared with other methods."""
        return n_bytes(self.parameters())


class Mask2FormerJoint(Mask2Former):
    """All tasks seen so far, with all their labels: the upper bound of `mask2former`."""

    name = "mask2former-joint"
    train_scope = "seen"


class Mask2FormerReplay(Replay, Mask2Former):
    """`mask2former` with exemplars of old tasks as half of every batch.

    Exemplars keep semantic maps, in panoptic benchmarks panoptic ones: there a crowd is void, for it is no mask.
    """

    name = "mask2former-replay"

    @property
    def target_key(self) -> str:
        """The map that masks are made of."""
        return "panoptic" if self.context.kind == "panoptic" else "semantic"

    def target(self, batch: Batch) -> Tensor:
        """(N, H, W) class ids, or (N, H, W, 2) with instance numbers and without crowds."""
        if self.context.kind != "panoptic":
            return super().target(batch)
        maps: Tensor = batch["panoptic"]
        if not any(batch["crowd"]):
            return maps
        none = maps.new_tensor([VOID, 0])
        return torch.stack(
            [
                torch.where(torch.isin(own[..., 1:], own.new_tensor(sorted(crowd))), none, own)
                for own, crowd in zip(maps, batch["crowd"], strict=True)
            ]
        )

    def _with_exemplars(self, batch: Batch) -> Batch:
        found = super()._with_exemplars(batch)
        if found is batch or self.context.kind != "panoptic":
            return found
        return {**found, "crowd": [frozenset()] * len(found["sample_id"])}
