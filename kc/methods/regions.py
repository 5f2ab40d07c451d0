"""From images to region keys, and from region scores back to maps: shared by every method that reads masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kc.encoders.base import dense
from kc.methods.base import Batch, Context
from kc.proposals.merge import paint, semantic_to_panoptic
from kc.proposals.pooling import pool
from kc.types import Float32Array, Int32Array, Int64Array, Prediction, Segments


@dataclass(frozen=True)
class Regions:
    """Proposals of one image with a key each: `keys` (N, D) float32, L2-normalised."""

    segments: Segments
    keys: Float32Array


class RegionEncoder:
    """Mask-pooled keys of proposals: the image is encoded once, every mask pools from that one feature map.

    Levels are L2-normalised per position, joined at the finest stride and averaged over the mask. Regions of an image
    are kept (up to `budget` bytes) because every evaluation asks for the same test images again.
    """

    def __init__(self, context: Context, budget: int = 1 << 30) -> None:
        self.context = context
        self.budget = budget
        self._kept: dict[str, Regions] = {}
        self._bytes = 0

    def __call__(self, batch: Batch) -> list[Regions]:
        """Regions of each image of a batch that carries `raw` images."""
        ids = list(batch["sample_id"])
        if any(s not in self._kept for s in ids):
            features = self.context.encode(batch)
            maps = dense(features, self.context.encoder.strides[0])
            made = [self._make(batch, row, maps[row]) for row in range(len(ids))]
        else:
            made = [self._kept[s] for s in ids]
        for sample_id, regions in zip(ids, made, strict=True):
            if sample_id not in self._kept and self._bytes < self.budget:
                self._kept[sample_id] = regions
                self._bytes += regions.keys.nbytes + int(np.prod(regions.segments.size)) * 4
        return made

    def _make(self, batch: Batch, row: int, feature_map: Tensor) -> Regions:
        segments = self.context.segments(batch, row)
        return Regions(segments, pool(feature_map.cpu(), segments))


def posteriors(context: Context, batch: Batch, regions: Sequence[Regions], vocabulary: Sequence[int]) -> list[Tensor]:
    """The open-vocabulary base model's probabilities (N, C) for the regions of each image."""
    assert context.base is not None
    features = context.encode(batch)
    names = context.names(vocabulary)
    return [
        context.base.region_probabilities(features.levels[-1][row].cpu(), r.segments, names)
        for row, r in enumerate(regions)
    ]


def to_prediction(
    context: Context, vocabulary: tuple[int, ...], regions: Sequence[Regions], labels: Sequence[Int64Array]
) -> Prediction:
    """Paint region labels into maps; neighbouring regions of one thing class become one instance."""
    maps = [paint(r.segments, x) for r, x in zip(regions, labels, strict=True)]
    panoptic: list[Int32Array] = []
    if context.kind == "panoptic":
        panoptic = [semantic_to_panoptic(m, context.thing_ids) for m in maps]
    return Prediction(vocabulary, semantic=maps, panoptic=panoptic)


def normalised(pooled: Tensor) -> Float32Array:
    """(N, D) features as L2-normalised float32 rows on the host."""
    return np.ascontiguousarray(F.normalize(pooled, dim=1).cpu().numpy().astype(np.float32))


def best(scores: Tensor, vocabulary: Sequence[int]) -> Int64Array:
    """Class id of the highest score of each row of (N, C)."""
    ids: Int64Array = np.asarray(vocabulary, dtype=np.int64)[torch.argmax(scores, dim=1).cpu().numpy()]
    return ids
