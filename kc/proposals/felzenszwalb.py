"""Graph-based segmentation (Felzenszwalb and Huttenlocher 2004): regions of any shape that end at colour edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.segmentation import felzenszwalb

from kc.proposals.base import from_partition
from kc.spec import NonNegative, Positive, ProposerSpec, Whole
from kc.types import Segments, UInt8Array


@dataclass(frozen=True)
class FelzenszwalbOptions:
    """Options of the graph-based segmentation.

    Args:
        scale: A higher one gives fewer regions.
        sigma: Deviation in pixels of the Gaussian blur before.
        min_size: Regions of fewer pixels are merged.
    """

    scale: Positive = 100.0
    sigma: NonNegative = 0.3
    min_size: Whole = 40


@dataclass(frozen=True)
class Felzenszwalb(FelzenszwalbOptions):
    """A higher `scale` gives fewer regions; `sigma` blurs first; regions under `min_size` pixels are merged."""

    spec = ProposerSpec(
        "Graph-based regions of any shape that end at colour edges.",
        paper="Felzenszwalb and Huttenlocher 2004",
        options=FelzenszwalbOptions,
    )

    @property
    def name(self) -> str:
        """As given on the command line."""
        return "felzenszwalb"

    @property
    def key(self) -> str:
        """Name and settings."""
        return f"felzenszwalb-{self.scale:g}-{self.sigma:g}-{self.min_size}"

    def propose(self, image: UInt8Array) -> Segments:
        """Regions of `image` (H, W, 3) uint8 RGB."""
        labels = felzenszwalb(image, scale=self.scale, sigma=self.sigma, min_size=self.min_size)
        return from_partition(labels.astype(np.int64))
