"""What a gradient method trains over an encoder: a decoder and a growing classifier, and what both mean for a batch.

`ImageHead` classifies images, `PixelHead` pixels, `RegionHead` proposals by the keys that retrieval reads;
`kc.methods.finetune.mask_head.MaskHead` has a network of its own and classifies its queries.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from kc.errors import KcError
from kc.methods.base import Context, as_map
from kc.methods.distributed import weight_of
from kc.methods.finetune.decoders import PooledVector, decoder_of
from kc.methods.finetune.losses import IGNORED, at_loss, at_resolution, cross_entropy, to_columns
from kc.methods.predictions import maps_to_prediction, to_prediction
from kc.methods.regions import Regions, best, with_keys
from kc.openvocab.mask_inference import at_size
from kc.proposals.pooling import coverage
from kc.types import HIDDEN, Batch, Features, Prediction, Segments


class GrowingClassifier(nn.Module):
    """A classifier whose columns are class ids in the order in which they were learned, linear if not said otherwise.

    Args:
        in_features: D.
        pointwise: classify every position of a map (N, D, h, w) instead of vectors (N, D).
        layers: linear layers of each step's perceptron, of width D, with ReLU between; 1 where pointwise.
    """

    def __init__(self, in_features: int, *, pointwise: bool = False, layers: int = 1) -> None:
        super().__init__()
        self.in_features, self.pointwise, self.layers = in_features, pointwise, layers
        self.class_ids: list[int] = []
        self.steps = nn.ModuleList()
        self.step_sizes: list[int] = []

    def grow(self, class_ids: Sequence[int]) -> None:
        """Append one column for each of `class_ids`; a known id is an error."""
        if again := set(class_ids) & set(self.class_ids):
            raise ValueError(f"classes {sorted(again)} already have a column")
        width, n = self.in_features, len(class_ids)
        if n:
            layer = nn.Conv2d(width, n, 1) if self.pointwise else perceptron(width, n, self.layers)
            self.steps.append(layer.to(next(self.parameters()).device) if self.class_ids else layer)
            self.class_ids.extend(class_ids)
            self.step_sizes.append(n)

    def columns(self, class_ids: Sequence[int]) -> list[int]:
        """Positions of `class_ids` among the columns; KeyError for an id that was never learned."""
        position = {c: i for i, c in enumerate(self.class_ids)}
        return [position[c] for c in class_ids]

    def get_extra_state(self) -> dict[str, list[int]]:
        """The class of each column, and how many columns each step brought."""
        return {"class_ids": list(self.class_ids), "step_sizes": list(self.step_sizes)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Grow to the columns of `state`, whose first ones are there already."""
        start = len(self.class_ids)
        for size, end in zip(state["step_sizes"], itertools.accumulate(state["step_sizes"]), strict=True):
            if end > start:
                self.grow(state["class_ids"][end - size : end])

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., C), or pointwise (N, D, h, w) -> (N, C, h, w); C = number of classes learned so far."""
        return torch.cat([step(x) for step in self.steps], dim=1 if self.pointwise else -1)


@torch.no_grad()
def copy_column(source: nn.Module, new: nn.Module) -> None:
    """Copy the one column of the layers `source` into every column of `new`, layers of the same kind."""
    for own, old in zip(new.parameters(), source.parameters(), strict=True):
        own.copy_(old.expand_as(own))


def perceptron(width: int, out_features: int, layers: int) -> nn.Module:
    """`layers` linear layers of `width` inputs each, with ReLU between; one of them is just that layer."""
    last = nn.Linear(width, out_features)
    hidden = (part for _ in range(layers - 1) for part in (nn.Linear(width, width), nn.ReLU()))
    return last if layers == 1 else nn.Sequential(*hidden, last)


Net = nn.Module | None
"""The encoder that is trained; None: it is frozen."""


class Head(nn.Module, ABC):
    """Decoder and classifier, how a batch becomes features and targets, the base loss, and the answer.

    Heads of pixels and regions always have one column for "none of the classes": the benchmark's background class where
    it has one, else the column HIDDEN, which is trained on hidden pixels and never predicted.
    """

    needs_raw = False
    """True when batches must carry the original images."""
    reads_images = False
    """True when batches must carry the network's input even where all features are cached."""
    of_images = False
    """True for one answer an image; else answers are of pixels, regions or masks."""
    target_key = "semantic"
    """Where a training batch holds the targets."""

    def __init__(self, context: Context, decoder: nn.Module, classifier: GrowingClassifier) -> None:
        super().__init__()
        self.context, self.decoder, self.classifier = context, decoder, classifier

    def grow_none(self) -> None:
        """Give "none of the classes" the first column."""
        background = self.context.background_id
        self.classifier.grow([HIDDEN if background is None else background])

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def features(self, batch: Batch, network: Net) -> Features:
        """Features of a batch: frozen and cached, or from the `network` that is trained."""
        return self.context.encode(batch) if network is None else cast(Features, network(batch["image"]))

    def embed(self, features: Features) -> Tensor:
        """What the classifier reads: (N, D), or the decoder's map (N, D, h, w)."""
        return cast(Tensor, self.decoder(features))

    def forward(self, features: Features) -> Tensor:
        """Logits (N, C) or (N, C, h, w) over the classifier's columns."""
        return cast(Tensor, self.classifier(self.embed(features)))

    def scaled(self, logits: Tensor) -> Tensor:
        """Logits at the resolution where losses are taken."""
        return logits

    def columns(self, target: Tensor, scaled: Tensor) -> Tensor:
        """Columns, or IGNORED, of class ids (N,) or (N, H, W), at the resolution of `scaled` (N, C) or (N, C, h, w)."""
        return at_resolution(to_columns(target, self.classifier.class_ids), scaled.shape[2:])

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of logits (N, C) or maps (N, C, h, w) against class ids (N,) or (N, H, W), a mean over those of
        all processes."""
        scaled = self.scaled(logits)
        columns = self.columns(target, scaled)
        return cross_entropy(scaled, columns) * weight_of(columns != IGNORED)

    def target(self, batch: Batch) -> Tensor:
        """Class ids of a training batch: (N,) of images or regions, (N, H, W) of pixels."""
        return cast(Tensor, batch[self.target_key])

    @abstractmethod
    def predict(self, batch: Batch, vocabulary: tuple[int, ...], network: Net) -> Prediction:
        """The answer over `vocabulary`, whose classes have columns."""

    def posterior(self, batch: Batch, regions: Sequence[Regions] | None, ids: Sequence[int], network: Net) -> Tensor:
        """Probabilities (N, C) over classes `ids` of the images or `regions` of a batch, joined in order."""
        raise NotImplementedError

    def stored(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Input and target of each image of a training batch on the CPU, as exemplars keep them: uint8 (3, H, W)."""
        images = (batch["image"] * 255).round().to("cpu", torch.uint8)
        return list(zip(images, self.target(batch).cpu(), strict=True))

    def with_stored(self, batch: Batch, exemplars: Sequence[tuple[Tensor, Tensor]], ids: Sequence[str]) -> Batch:
        """A training batch and, behind it, stored inputs and targets with their sample ids."""
        target = self.target(batch)
        images = torch.stack([image for image, _ in exemplars]).to(batch["image"]) / 255
        targets = torch.stack([t.to(target) for _, t in exemplars])
        return {
            **batch,
            "image": torch.cat([batch["image"], images]),
            "sample_id": [*batch["sample_id"], *ids],
            self.target_key: torch.cat([target, targets]),
        }


class ImageHead(Head):
    """One label an image, from pooled features."""

    of_images = True
    target_key = "label"

    def __init__(self, context: Context) -> None:
        encoder = context.encoder
        super().__init__(context, PooledVector(encoder.unit_pooled), GrowingClassifier(encoder.pooled_dim))

    def predict(self, batch: Batch, vocabulary: tuple[int, ...], network: Net) -> Prediction:
        logits = self(self.features(batch, network))
        return Prediction(vocabulary, scores=logits[:, self.classifier.columns(vocabulary)])

    def posterior(self, batch: Batch, regions: Sequence[Regions] | None, ids: Sequence[int], network: Net) -> Tensor:
        return cast(Tensor, self(self.features(batch, network)))[:, self.classifier.columns(ids)].softmax(1)


class PixelHead(Head):
    """One label a pixel, from the map of a decoder (`kc.methods.finetune.decoders`)."""

    def __init__(self, context: Context) -> None:
        if not context.encoder.channels:
            raise KcError(f"encoder {context.encoder.name} gives no dense features: it classifies images only")
        decoder, width, scale = decoder_of(context.training.decoder, context.encoder.channels)
        super().__init__(context, decoder, GrowingClassifier(width, pointwise=True))
        self.scale = scale
        self.grow_none()

    def scaled(self, logits: Tensor) -> Tensor:
        """(N, C, scale h, scale w), see `decoder_of`."""
        return at_loss(logits, self.scale)

    def predict(self, batch: Batch, vocabulary: tuple[int, ...], network: Net) -> Prediction:
        logits = self(self.features(batch, network))[:, self.classifier.columns(vocabulary)]
        ids, pairs = torch.tensor(vocabulary, device=logits.device), zip(logits, batch["original_size"], strict=True)
        maps = [as_map(ids[at_size(z, size).argmax(0)]) for z, size in pairs]
        return maps_to_prediction(self.context, vocabulary, maps)

    def posterior(self, batch: Batch, regions: Sequence[Regions] | None, ids: Sequence[int], network: Net) -> Tensor:
        """The mean over each region of the probabilities of its pixels."""
        assert regions is not None
        maps = self(self.features(batch, network))[:, self.classifier.columns(ids)].softmax(1).cpu()
        return torch.cat([region_means(m, r.segments) for m, r in zip(maps, regions, strict=True)])


class RegionHead(Head):
    """One label a region, over the frozen encoder: the same proposals by the same keys as a memory has."""

    needs_raw = True
    reads_images = True

    def __init__(self, context: Context) -> None:
        assert context.regions is not None
        encoder, regions = context.encoder, context.regions
        super().__init__(context, PooledVector(encoder.unit_pooled), GrowingClassifier(regions.dim))
        self.regions = regions
        self.grow_none()

    def prepare(self, batch: Batch) -> Batch:
        return with_keys(batch, self.regions, self.context.training.purity)

    def features(self, batch: Batch, network: Net) -> Features:
        """The keys (M, D) of the M regions of a training batch."""
        return Features(torch.cat(batch["keys"]))

    def target(self, batch: Batch) -> Tensor:
        """Class ids (M,) of the M regions."""
        return torch.cat(batch["key_labels"])

    def _logits(self, regions: Sequence[Regions], vocabulary: Sequence[int]) -> Tensor:
        weight = next(self.classifier.parameters())
        keys = torch.cat([torch.from_numpy(r.keys) for r in regions]).to(weight.device)
        return cast(Tensor, self(Features(keys)))[:, self.classifier.columns(vocabulary)]

    def predict(self, batch: Batch, vocabulary: tuple[int, ...], network: Net) -> Prediction:
        regions = self.regions(batch)
        parts = torch.split(self._logits(regions, vocabulary), [len(r.keys) for r in regions])
        return to_prediction(self.context, vocabulary, regions, [best(z, vocabulary) for z in parts])

    def posterior(self, batch: Batch, regions: Sequence[Regions] | None, ids: Sequence[int], network: Net) -> Tensor:
        assert regions is not None
        return self._logits(regions, ids).softmax(1)

    def stored(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Keys float32 (n, D) of each image's regions and their classes (n,)."""
        return [(k.cpu(), t.cpu()) for k, t in zip(batch["keys"], batch["key_labels"], strict=True)]

    def with_stored(self, batch: Batch, exemplars: Sequence[tuple[Tensor, Tensor]], ids: Sequence[str]) -> Batch:
        """A training batch and, behind it, stored keys and classes."""
        device = next(self.classifier.parameters()).device
        return {
            **batch,
            "sample_id": [*batch["sample_id"], *ids],
            "keys": [*batch["keys"], *(keys.to(device) for keys, _ in exemplars)],
            "key_labels": [*batch["key_labels"], *(classes.long().to(device) for _, classes in exemplars)],
        }


def head_of(context: Context) -> Head:
    """The head for a benchmark's kind and the decoder of the run."""
    if context.kind == "classification":
        return ImageHead(context)
    if context.training.decoder == "regions" and context.regions is not None:
        return RegionHead(context)
    return PixelHead(context)


def region_means(maps: Tensor, segments: Segments) -> Tensor:
    """Area-weighted mean (N, C) of `maps` (C, h, w) over each of N regions; a region without a pixel is a zero row."""
    weights = coverage(segments, (maps.shape[1], maps.shape[2]))
    sums = weights @ maps.flatten(1).T.contiguous().numpy()
    area = np.asarray(weights.sum(axis=1)).reshape(-1, 1)
    return torch.from_numpy(np.asarray(sums / np.maximum(area, 1), dtype=np.float32))
