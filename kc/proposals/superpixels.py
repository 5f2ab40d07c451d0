"""Regions by colour: SLIC superpixels (Achanta et al. 2012) and graphs (Felzenszwalb and Huttenlocher 2004)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.segmentation import felzenszwalb, slic

from kc.proposals.base import OptionsKey, from_partition
from kc.spec import Count, NonNegative, Positive, ProposerSpec, Whole
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
class Superpixels(SuperpixelsOptions, OptionsKey):
    """SLIC with these options."""

    family = "superpixels"
    spec = ProposerSpec(
        "SLIC superpixels: compact regions of similar colour and equal size.",
        paper="Achanta et al. 2012",
        options=SuperpixelsOptions,
    )

    def propose(self, image: UInt8Array) -> Segments:
        labels = slic(image, n_segments=self.n_segments, compactness=self.compactness, start_label=0)
        return from_partition(labels.astype(np.int64))


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
class Felzenszwalb(FelzenszwalbOptions, OptionsKey):
    """The graph-based segmentation with these options."""

    family = "felzenszwalb"
    spec = ProposerSpec(
        "Graph-based regions of any shape that end at colour edges.",
        paper="Felzenszwalb and Huttenlocher 2004",
        options=FelzenszwalbOptions,
    )

    def propose(self, image: UInt8Array) -> Segments:
        labels = felzenszwalb(image, scale=self.scale, sigma=self.sigma, min_size=self.min_size)
        return from_partition(labels.astype(np.int64))
