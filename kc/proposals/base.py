"""The Proposer contract and what every region representation shares."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from kc.types import BoolArray, Int32Array, Int64Array, Segments, UInt8Array


class Proposer(Protocol):
    """Class-agnostic regions of an image."""

    @property
    def name(self) -> str:
        """As given on the command line."""

    @property
    def key(self) -> str:
        """Name and settings: equal keys give equal regions. Usable as a folder name."""

    def propose(self, image: UInt8Array) -> Segments:
        """Regions of `image` (H, W, 3) uint8 RGB, at its own size."""


class OptionsKey:
    """Name and key of a proposer that is a dataclass of its options: `family`, and the values in their order."""

    family: ClassVar[str]

    @property
    def name(self) -> str:
        return self.family

    @property
    def key(self) -> str:
        values = astuple(self)  # type: ignore[call-overload]
        return "-".join([self.family, *(f"{v:g}" if isinstance(v, float) else str(v) for v in values)])


def from_partition(partition: npt.NDArray[np.integer[Any]]) -> Segments:
    """Segments of a label map (H, W) whose values are made consecutive from 0 in rising order; every score is 1."""
    values, inverse = np.unique(partition, return_inverse=True)
    height, width = partition.shape
    numbers: Int32Array = inverse.reshape(height, width).astype(np.int32)
    return Segments((height, width), np.ones(len(values), np.float32), partition=numbers)


def areas(segments: Segments) -> Int64Array:
    """Pixels of each region, (N,) int64."""
    if segments.partition is not None:
        return np.bincount(segments.partition.ravel(), minlength=len(segments)).astype(np.int64)
    assert segments.masks is not None
    covered: Int64Array = segments.masks.sum(axis=(1, 2), dtype=np.int64)
    return covered


def as_masks(segments: Segments) -> BoolArray:
    """Every region as a mask, (N, H, W) bool: N times the memory of a partition."""
    if segments.partition is None:
        assert segments.masks is not None
        return segments.masks
    masks: BoolArray = segments.partition[None] == np.arange(len(segments))[:, None, None]
    return masks


def pixels_of(segments: Segments) -> tuple[Int64Array, Int64Array]:
    """Every (region, flat pixel index) pair, two (P,) int64 arrays; P = H * W for a partition."""
    if segments.partition is not None:
        region = segments.partition.ravel().astype(np.int64)
        return region, np.arange(len(region), dtype=np.int64)
    assert segments.masks is not None
    region, pixel = np.nonzero(segments.masks.reshape(len(segments), segments.size[0] * segments.size[1]))
    return region.astype(np.int64), pixel.astype(np.int64)
