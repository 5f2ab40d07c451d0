"""From regions to what a method answers: probabilities of the base model, and labels painted into maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from kc.methods.base import Context
from kc.methods.regions import Regions
from kc.openvocab.base import DenseVocabulary, FeatureVocabulary
from kc.proposals.merge import masks_to_panoptic, paint, semantic_to_panoptic
from kc.proposals.pooling import pool
from kc.types import Batch, Features, Int64Array, Prediction


def posteriors(context: Context, batch: Batch, regions: Sequence[Regions], vocabulary: Sequence[int]) -> list[Tensor]:
    """The open-vocabulary base model's probabilities (N, C) for the regions of each image."""
    base, names = context.base, context.names(vocabulary)
    if isinstance(base, DenseVocabulary):
        background = background_position(context, vocabulary)
        return [
            base.region_scores(batch["raw"][row], batch["sample_id"][row], r.segments, names, background)
            for row, r in enumerate(regions)
        ]
    reader = cast(FeatureVocabulary, base)
    means = region_posteriors(reader, context.encode(batch), regions)
    return [reader.scores_from_posterior(p, names) for p in means]


def region_posteriors(base: FeatureVocabulary, features: Features, regions: Sequence[Regions]) -> list[Tensor]:
    """The base's own posterior (N, K), averaged over each region of each image."""
    maps = base.posterior_map(features).cpu()
    return [torch.from_numpy(pool(m, r.segments)) for m, r in zip(maps, regions, strict=True)]


def background_position(context: Context, vocabulary: Sequence[int]) -> int | None:
    """Where the benchmark's background class stands in `vocabulary`, None where it is not asked for."""
    ids = list(vocabulary)
    return ids.index(context.background_id) if context.background_id in ids else None


def to_prediction(
    context: Context, vocabulary: tuple[int, ...], regions: Sequence[Regions], labels: Sequence[Int64Array]
) -> Prediction:
    """Paint region labels into maps.

    Neighbouring regions of a partition that are one thing class become one instance; of masks each is one.
    """
    pairs = list(zip(regions, labels, strict=True))
    maps = [paint(r.segments, x) for r, x in pairs]
    if context.kind != "panoptic" or any(r.segments.masks is None for r in regions):
        return maps_to_prediction(context, vocabulary, maps)
    panoptic = [masks_to_panoptic(r.segments, x, context.thing_ids) for r, x in pairs]
    return Prediction(vocabulary, semantic=maps, panoptic=panoptic)


def maps_to_prediction(context: Context, vocabulary: tuple[int, ...], maps: list[Int64Array]) -> Prediction:
    """(H, W) maps of class ids as a prediction; connected areas of one thing class become one instance."""
    panoptic = [semantic_to_panoptic(m, context.thing_ids) for m in maps if context.kind == "panoptic"]
    return Prediction(vocabulary, semantic=maps, panoptic=panoptic)
