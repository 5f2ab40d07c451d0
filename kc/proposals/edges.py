"""Regions between learned edges: a watershed (Meyer 1994) over the map of an edge detector (see `kc.proposals.hed`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt
from skimage.filters import gaussian
from skimage.measure import label
from skimage.morphology import local_minima, reconstruction
from skimage.segmentation import watershed

from kc.proposals.base import OptionsKey, from_partition
from kc.proposals.hed import Hed, load_hed
from kc.proposals.pretrained import hed_weights
from kc.spec import Count, NonNegative, ProposerSpec
from kc.types import Float32Array, Segments, UInt8Array


@dataclass(frozen=True)
class EdgesOptions:
    """Options of the watershed.

    Args:
        depth: How far (a probability) a region lies below every way out of it; a higher one gives fewer regions.
        smoothing: Deviation in pixels of the Gaussian over the edge map.
        side: Pixels to which the longer side of a larger image is reduced for the network.
    """

    depth: Annotated[float, Gt(1 / 255), Lt(1)] = 0.1
    smoothing: NonNegative = 1.0
    side: Count = 480


@dataclass(frozen=True)
class Edges(EdgesOptions, OptionsKey):
    """Basins of the edge map, one region each. HED was trained on images 481 pixels wide.

    The defaults were chosen on 15 COCO and 8 CamVid training images.
    """

    family = "edges"
    spec = ProposerSpec(
        "Regions between learned edges: a watershed over the edge map of HED.",
        paper="Xie and Tu 2015; Meyer 1994",
        package="h5py",
        extra="edges",
        check="kc.proposals.pretrained:hed_weights",
        options=EdgesOptions,
    )

    @cached_property
    def network(self) -> Hed:
        """Read when the first image comes. Raises MissingExtraError."""
        return load_hed(hed_weights())

    def propose(self, image: UInt8Array) -> Segments:
        return from_partition(basins(self.network.edges(image, self.side), self.depth, self.smoothing))


def basins(edges: Float32Array, depth: float, smoothing: float) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The number of its basin for each pixel of an edge map (H, W) in [0, 1]; see `Edges`."""
    smooth = gaussian(edges, smoothing) if smoothing else edges  # type: ignore[no-untyped-call]
    # 256 levels, so that a plateau is flat.
    levels = np.round(smooth * 255).astype(np.int64)
    # Not skimage's h_minima, which finds two hollows of equal ground apart however low the wall between them.
    filled = reconstruction(levels + max(1, round(depth * 255)), levels, method="erosion")  # type: ignore[no-untyped-call]
    markers = label(local_minima(filled))  # type: ignore[no-untyped-call]
    flooded = watershed(levels, markers)  # type: ignore[no-untyped-call]
    return np.asarray(flooded, dtype=np.int64)
