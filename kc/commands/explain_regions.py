"""Regions for `kc explain` and `kc memory search`: the one that is asked about, and those of the rows that voted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from kc.data.manifest import Manifest
from kc.data.transforms import image_to_tensor
from kc.encoders.base import Encoder, dense
from kc.errors import KcError
from kc.memory.disk import Memory
from kc.methods.regions import Regions, masked_keys
from kc.proposals.base import Proposer
from kc.proposals.load import load_proposer
from kc.proposals.oracle import partition_from
from kc.proposals.pooling import pool
from kc.types import VOID, BoolArray, Sample, Segments, UInt8Array

SAME = 0.999
"""Cosine from which on a region of a stored image counts as the one that was stored: features are kept as float16."""


@dataclass(frozen=True)
class RegionEye:
    """How a memory's keys of regions are made: encoder, proposals (`oracle` or a proposer), keys, input size (H, W)."""

    encoder: Encoder
    proposals: str
    keys: str
    size: tuple[int, int]

    @classmethod
    def of(cls, memory: Memory, manifest: Manifest, encoder: Encoder, settings: dict[str, Any]) -> RegionEye:
        """As the run's settings or the benchmark say; KcError where that is not what made the memory."""
        recommended = manifest.recommended
        proposals = settings.get("proposals") or recommended.proposals or "superpixels"
        height, width = manifest.input_size
        keys = settings.get("keys") or recommended.keys or "pooled"
        eye = cls(encoder, proposals, keys, (height, width))
        if memory.fingerprint != eye.fingerprint:
            raise KcError(
                f"{memory.path} holds keys of regions made by {memory.fingerprint!r}, but these settings make "
                f"{eye.fingerprint!r}: give --run, or the benchmark and encoder of the run that made it"
            )
        return eye

    @cached_property
    def proposer(self) -> Proposer | None:
        """Makes the regions; None for true segments."""
        return None if self.proposals == "oracle" else load_proposer(self.proposals)

    @property
    def fingerprint(self) -> str:
        """As memories of regions name it."""
        source = "oracle" if self.proposer is None else self.proposer.key
        return f"{self.encoder.fingerprint}+{source}+{self.keys}"

    @torch.no_grad()
    def __call__(self, image: UInt8Array, sample: Sample | None) -> Regions:
        """The regions of an image (H, W, 3) uint8 and their keys. KcError for true segments of an unlabelled image."""
        segments = self._segments(image, sample)
        if self.keys == "masked":
            return Regions(segments, masked_keys(self.encoder, image, segments, torch.device("cpu")))
        features = self.encoder.encode(image_to_tensor(image, self.size)[None])
        return Regions(segments, pool(dense(features, self.encoder.strides[0])[0], segments))

    def _segments(self, image: UInt8Array, sample: Sample | None) -> Segments:
        if self.proposer is not None:
            return self.proposer.propose(image)
        target = None if sample is None else (sample.panoptic if sample.panoptic is not None else sample.semantic)
        if target is None:
            raise KcError("the memory's regions are true segments, and this image has no labels: give a sample")
        return partition_from(target)


def mask_of(segments: Segments, number: int) -> BoolArray:
    """(H, W) bool: the pixels of one region."""
    if segments.partition is not None:
        inside: BoolArray = segments.partition == number
        return inside
    assert segments.masks is not None
    chosen: BoolArray = segments.masks[number]
    return chosen


def chosen_region(segments: Segments, point: str | None) -> int:
    """The region at `point` (ROW,COLUMN in pixels; of several the smallest), or the largest. KcError where none is."""
    areas = np.array([int(mask_of(segments, i).sum()) for i in range(len(segments))], np.int64)
    if len(areas) == 0:
        raise KcError("there is no region in this image")
    if point is None:
        return int(areas.argmax())
    parts = point.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise KcError(f"--point {point}: expected ROW,COLUMN in pixels")
    row, column = (int(part) for part in parts)
    height, width = segments.size
    if row >= height or column >= width:
        raise KcError(f"--point {point}: the image has {height} rows and {width} columns")
    here = [i for i in range(len(segments)) if mask_of(segments, i)[row, column]]
    if not here:
        raise KcError(f"--point {point}: no region covers that pixel")
    return min(here, key=lambda i: areas[i])


def label_of(sample: Sample | None, mask: BoolArray) -> int | None:
    """The class that most labelled pixels of a region (H, W) have; None where none is labelled."""
    if sample is None or sample.semantic is None:
        return None
    inside = sample.semantic[mask & (sample.semantic != VOID)]
    return int(np.bincount(inside).argmax()) if len(inside) else None


def stored_mask(eye: RegionEye, sample: Sample, memory: Memory, row: int) -> BoolArray | None:
    """The region (H, W) of `sample` that row `row` was made of, found by its key; None where none has that key.

    By key, not by number: true segments are numbered among what could be seen at the time.
    """
    regions = eye(sample.image, sample)
    near = regions.keys @ memory.keys([row])[0]
    return mask_of(regions.segments, int(near.argmax())) if len(near) and near.max() >= SAME else None
