"""SLIC superpixels (Achanta et al. 2012): compact regions of similar colour and equal size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.segmentation import slic

from kc.proposals.base import from_partition
from kc.spec import Count, Positive, ProposerSpec
from kc.types import Segments, UInt8Array


@dataclass(frozen=True)
class SuperpixelsOptions:
    """Options of SLIC.

    Args:
        n_segments: About how many regions an image has.
        compactness: Weight of distance against colour; a higher one makes regions squarer.
    """

    n_segments: Count = 300
    compactness: Positive = 20.0


@dataclass(frozen=True)
class Superpixels(SuperpixelsOptions):
    """About `n_segments` regions an image; a higher `compactness` makes them squarer."""

    spec = ProposerSpec(
        "SLIC superpixels: compact regions of similar colour and equal size.",
        paper="Achanta et al. 2012",
        options=SuperpixelsOptions,
    )

    @property
    def name(self) -> str:
        """As given on the command line."""
        return "superpixels"

    @property
    def key(self) -> str:
        """Name and settings."""
        return f"superpixels-{self.n_segments}-{self.compactness:g}"

    def propose(self, image: UInt8Array) -> Segments:
        """Superpixels of `image` (H, W, 3) uint8 RGB."""
        labels = slic(image, n_segments=self.n_segments, compactness=self.compactness, start_label=0)
        return from_partition(labels.astype(np.int64))
