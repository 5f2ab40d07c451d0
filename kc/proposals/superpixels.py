"""SLIC superpixels (Achanta et al. 2012): compact regions of similar colour and equal size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.segmentation import slic

from kc.proposals.base import from_partition
from kc.types import Segments, UInt8Array


@dataclass(frozen=True)
class Superpixels:
    """About `n_segments` regions an image; a higher `compactness` makes them squarer."""

    n_segments: int = 300
    compactness: float = 20.0

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
