"""A mask classifier as a head: a network whose queries are masks, and a growing classifier over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kc.encoders.cache import FeatureCache
from kc.methods.base import Context, as_map
from kc.methods.finetune.heads import GrowingClassifier, Head
from kc.methods.finetune.mask_network import EncoderBackbone, MaskNetwork, Queries, load_mask_network
from kc.methods.finetune.mask_targets import MaskSet, mask_sets
from kc.openvocab.mask_inference import at_size, instances, panoptic_map, semantic_scores
from kc.types import HIDDEN, VOID, Batch, Features, Prediction

NO_OBJECT = HIDDEN - 1
"""What names the first column of the classifier, which is no class and no label."""


class MaskHead(Head):
    """The whole of a Mask2Former with a classifier that grows; column 0 is "no object".

    Hidden and void pixels belong to no mask.

    Args:
        context: of a segmentation benchmark.
        network: see `load_mask_network`; with `--train head` its backbone is frozen.
        layers: linear layers of the classifier.
        limits: score that a query must pass and share of its mask that it must win, to be a panoptic segment.
    """

    reads_images = True

    def __init__(self, context: Context, network: str, layers: int, limits: tuple[float, float]) -> None:
        decoder = load_mask_network(network, context.encoder)
        super().__init__(context, decoder, GrowingClassifier(decoder.width, layers=layers))
        self.trains_backbone = context.training.train == "full"
        decoder.backbone.requires_grad_(self.trains_backbone)
        self.classifier.grow([NO_OBJECT])
        self.limits = limits
        self.target_key = "panoptic" if context.kind == "panoptic" else "semantic"
        self.pyramids: FeatureCache | None = None
        """Levels of a frozen backbone that is the run's encoder."""
        if isinstance(decoder.backbone, EncoderBackbone) and not self.trains_backbone:
            self.pyramids = FeatureCache(context.features.folder, decoder.backbone.pyramid)

    @property
    def mask_network(self) -> MaskNetwork:
        assert isinstance(self.decoder, MaskNetwork)
        return self.decoder

    def features(self, batch: Batch, network: nn.Module | None) -> Features:
        """The levels of a frozen encoder, from the cache where it has them; else the images themselves."""
        if self.pyramids is None:
            return Features(batch["image"])
        return self.pyramids.encode(batch["image"], list(batch["sample_id"]))

    def mask_sets(self, batch: Batch) -> list[MaskSet]:
        return mask_sets(batch, {c: i for i, c in enumerate(self.classifier.class_ids) if i > 0})

    def answers(self, batch: Batch, vocabulary: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Probabilities (N, Q, 1 + C) of "no object" and `vocabulary`, and mask logits (N, Q, h, w)."""
        queries: Queries = self.decoder(self.features(batch, None))
        columns = [0, *self.classifier.columns(vocabulary)]
        return self.classifier(queries.states[-1])[..., columns].softmax(-1), queries.masks[-1]

    def predict(self, batch: Batch, vocabulary: tuple[int, ...], network: nn.Module | None) -> Prediction:
        """Semantic maps; in panoptic benchmarks also panoptic ones and the scored instances of things."""
        classes, masks = self.answers(batch, vocabulary)
        ids = torch.tensor(vocabulary, device=classes.device)
        semantic, panoptic, things = [], [], []
        for p, small, size in zip(classes, masks, batch["original_size"], strict=True):
            full = at_size(small, size)
            semantic.append(as_map(ids[semantic_scores(p, full).argmax(0)]))
            if self.context.kind == "panoptic":
                panoptic.append(panoptic_map(p, full, vocabulary, self.context.thing_ids, *self.limits))
                things.append(instances(p, full, vocabulary, self.context.thing_ids))
        return Prediction(vocabulary, semantic=semantic, panoptic=panoptic, instances=things)

    def target(self, batch: Batch) -> Tensor:
        """(N, H, W) class ids; in panoptic benchmarks (N, H, W, 2) with instance numbers, crowds void."""
        maps = super().target(batch)
        if self.context.kind != "panoptic" or not any(batch["crowd"]):
            return maps
        none = maps.new_tensor([VOID, 0])
        return torch.stack(
            [
                torch.where(torch.isin(own[..., 1:], own.new_tensor(sorted(crowd))), none, own)
                for own, crowd in zip(maps, batch["crowd"], strict=True)
            ]
        )

    def with_stored(self, batch: Batch, exemplars: Sequence[tuple[Tensor, Tensor]], ids: Sequence[str]) -> Batch:
        joined = super().with_stored(batch, exemplars, ids)
        if self.context.kind != "panoptic":
            return joined
        return {**joined, "crowd": [frozenset()] * len(joined["sample_id"])}
