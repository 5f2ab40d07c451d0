"""A mask classifier as a head: a network whose queries are masks, a growing classifier over them, and its loss."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kc.encoders.cache import FeatureCache
from kc.methods.base import Context, as_map
from kc.methods.distributed import mean_of, weight_of, world
from kc.methods.finetune.heads import GrowingClassifier, Head
from kc.methods.finetune.mask_network import EncoderBackbone, MaskNetwork, Queries, load_mask_network
from kc.openvocab.mask_inference import at_size, instances, loss_terms, loss_weights, panoptic_map, semantic_scores
from kc.types import HIDDEN, VOID, Batch, Features, Prediction

_PAIR = 1 << 32
"""More than any instance number."""
MaskSet = tuple[Tensor, Tensor]
"""Masks (n, H, W) float in {0, 1} and their columns (n,) int64 of one image."""


def mask_sets(batch: Batch, columns: Mapping[int, int]) -> list[MaskSet]:
    """The segments of each image whose class has a column.

    Args:
        batch: "panoptic" (N, H, W, 2) and "crowd", else "semantic" (N, H, W).
        columns: class id -> column.

    Returns:
        One mask a segment (panoptic; crowds left out) or a class (semantic).
    """
    sets: list[MaskSet] = []
    panoptic = "panoptic" in batch
    for row, labels in enumerate(batch["panoptic" if panoptic else "semantic"]):
        # One number a segment: finding the pairs that occur takes 20 times as long.
        flat = labels[..., 0].long() * _PAIR + labels[..., 1] if panoptic else labels.long() * _PAIR
        crowd = batch["crowd"][row] if panoptic else frozenset()
        segments = [(value // _PAIR, value % _PAIR, value) for value in torch.unique(flat).tolist()]
        kept = [(c, value) for c, instance, value in segments if c in columns and not (panoptic and instance in crowd)]
        size = labels.shape[:2]
        masks = [(flat == value).float() for _, value in kept]
        found = torch.tensor([columns[c] for c, _ in kept], dtype=torch.int64, device=labels.device)
        sets.append((torch.stack(masks) if masks else torch.zeros(0, *size, device=labels.device), found))
    return sets


def sigmoid_focal(
    logits: Tensor, columns: Tensor, alpha: float = 5.0, gamma: float = 1.0, scale: float = 50.0
) -> Tensor:
    """Focal loss (Lin et al. 2017) of one sigmoid a column, as ECLIPSE trains classifiers.

    Args:
        logits: (N, Q, C).
        columns: (N, Q) int64, the one column of each query that is true.
        alpha: strength; it does not balance the true column against the others.
        gamma: exponent of (1 - p of the truth).
        scale: factor of the mean; the authors' belongs to heads of a hundred columns.

    Returns:
        scale x the mean over queries and columns of alpha (1 - p_t)^gamma (-log p_t). The defaults are those of
        clovaai/ECLIPSE at 9266720 (`continual/method_wrapper/loss.py`, `mask2former/config.py`).
    """
    truth = F.one_hot(columns, logits.shape[-1]).to(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return scale * alpha * (entropy * (1 - (-entropy).exp()) ** gamma).mean()


class MaskLoss:
    """transformers' Mask2FormerLoss for a number of classes that grows: Hungarian matching, then cross entropy of
    classes, binary cross entropy and dice of masks at sampled points, at every stage of the decoder, weighted as the
    model's configuration says.

    The class columns are those of our head: column 0 is "no object". Several processes count the masks and queries of
    all of them, so that the mean of their gradients is that of one batch.

    Args:
        config: of the model.
        n_classes: C, without "no object".
        focal: `sigmoid_focal` in place of the cross entropy of classes.
        class_weight: in place of the configuration's.
        scale: of `sigmoid_focal`.
    """

    def __init__(
        self, config: Any, n_classes: int, focal: bool = False, class_weight: float | None = None, scale: float = 50.0
    ) -> None:
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

        base: Any = Mask2FormerLoss

        class Loss(base):  # type: ignore[misc]
            def get_num_masks(self, class_labels: Any, device: Any) -> Tensor:
                count = torch.tensor(float(sum(len(own) for own in class_labels)), device=device)
                return mean_of(count).clamp_min(1 / world())

            def loss_labels(self, logits: Tensor, labels: Any, indices: Any) -> Any:
                found = torch.full(logits.shape[:2], n_classes, device=logits.device)
                matched = torch.cat([own[j] for own, (_, j) in zip(labels, indices, strict=True)])
                found[self._get_predictions_permutation_indices(indices)] = matched
                if focal:
                    loss, counted = sigmoid_focal(logits, found, scale=scale), logits.new_tensor(found.numel())
                else:
                    loss = F.cross_entropy(logits.transpose(1, 2), found, self.empty_weight)
                    counted = self.empty_weight[found]
                return {"loss_cross_entropy": loss * weight_of(counted)}

        config = copy.deepcopy(config)
        config.num_labels = n_classes
        if class_weight is not None:
            config.class_weight = class_weight
        self.weights = loss_weights(config)
        self.criterion: Any = Loss(config, self.weights)

    def __call__(self, classes: Sequence[Tensor], queries: Queries, sets: Sequence[MaskSet]) -> Tensor:
        """The weighted sum over all stages.

        Args:
            classes: one tensor a stage, (N, Q, 1 + C) logits, column 0 "no object".
            queries: of the same stages.
            sets: the masks of each image with columns 1 .. C.
        """
        moved = [torch.cat([z[..., 1:], z[..., :1]], dim=-1) for z in classes]
        sets = [(masks, columns - 1) for masks, columns in sets]
        terms = loss_terms(self.criterion, self.weights, moved, queries.masks, sets)
        return torch.stack(list(terms.values())).sum()


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
    decoder: MaskNetwork

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

    def features(self, batch: Batch, network: nn.Module | None) -> Features:
        """The levels of a frozen encoder, from the cache where it has them; else the images themselves."""
        images = batch["image"]
        return Features(images) if self.pyramids is None else self.pyramids.encode(images, list(batch["sample_id"]))

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
        pairs = [(own, own.new_tensor(sorted(crowd))) for own, crowd in zip(maps, batch["crowd"], strict=True)]
        return torch.stack([torch.where(torch.isin(own[..., 1:], crowd), none, own) for own, crowd in pairs])

    def with_stored(self, batch: Batch, exemplars: Sequence[tuple[Tensor, Tensor]], ids: Sequence[str]) -> Batch:
        joined = super().with_stored(batch, exemplars, ids)
        crowd: dict[str, Any] = {"crowd": [frozenset()] * len(joined["sample_id"])}
        return {**joined, **crowd} if self.context.kind == "panoptic" else joined
