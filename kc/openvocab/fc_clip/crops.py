"""What FC-CLIP trains on: squares cut from images at random sizes (large-scale jitter, Ghiasi et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kc.openvocab.fc_clip.geometry import Frame, prepare
from kc.openvocab.fc_clip.training import Target
from kc.proposals.oracle import propose_from
from kc.types import VOID, Int32Array, Sample, UInt8Array

GREY = 128
"""Colour beside an image that is smaller than the square, as in detectron2."""


def jitter(
    image: UInt8Array, labels: Int32Array, side: int, scales: tuple[float, float], rng: np.random.Generator
) -> tuple[UInt8Array, Int32Array]:
    """A square of `image` (H, W, 3) and of its `labels` (H, W, 2), mirrored every other time.

    The image is resized to fit a square of `side` times a factor drawn from `scales`; what exceeds the square is cut at
    a random place, what is missing is grey and VOID.
    """
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    height, width = image.shape[:2]
    scale = rng.uniform(*scales) * side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    place = [int(rng.integers(0, max(0, length - side) + 1)) for length in size]
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(size[::-1], Image.Resampling.BILINEAR)
    rows, columns = (
        np.minimum(((np.arange(length) + 0.5) * own / length).astype(np.int64), own - 1)
        for length, own in zip(size, (height, width), strict=True)
    )
    window = tuple(slice(start, start + side) for start in place)
    cut, marked = np.asarray(resized)[window], labels[np.ix_(rows, columns)][window]
    square: UInt8Array = np.full((side, side, 3), GREY, np.uint8)
    square[: cut.shape[0], : cut.shape[1]] = cut
    void: Int32Array = np.full((side, side, 2), (VOID, 0), np.int32)
    void[: cut.shape[0], : cut.shape[1]] = marked
    return square, void


def labels_of(sample: Sample) -> Int32Array:
    """(H, W, 2) classes and instances of a sample; crowds are VOID, of semantic samples each class is one instance."""
    if sample.panoptic is None:
        assert sample.semantic is not None
        return np.stack([sample.semantic, np.zeros_like(sample.semantic)], axis=-1).astype(np.int32)
    labels = sample.panoptic.copy()
    if sample.crowd:
        labels[np.isin(labels[..., 1], sorted(sample.crowd))] = (VOID, 0)
    return labels


def example(
    sample: Sample, positions: Mapping[int, int], side: int, scales: tuple[float, float], rng: np.random.Generator
) -> tuple[Tensor, Target]:
    """The network's input (3, side, side) and its target; classes without a position among the names are left out."""
    image, labels = jitter(sample.image, labels_of(sample), side, scales, rng)
    segments, ids = propose_from(labels)
    assert segments.masks is not None
    known = np.array([int(c) in positions for c in ids], dtype=bool)
    masks = torch.from_numpy(segments.masks[known]).float()
    found = torch.tensor([positions[int(c)] for c in ids[known]], dtype=torch.int64)
    return prepare(image, Frame((side, side), (side, side))), (masks, found)
