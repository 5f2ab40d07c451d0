"""Which blocks GCLIP fuses and suppresses, found from the weights and a few photographs instead of set by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from kc.openvocab.dense_clip.model import DenseClip
from kc.openvocab.dense_clip.rows import ROWS, Row
from kc.openvocab.dense_clip.study import column_entropy, trace
from kc.openvocab.dense_clip.tower import check_tower, outlier

OUTLIER_Z = 6.0
"""Deviations above the mean norm from which the strongest channel of a block counts as an outlier (ours)."""

CALIBRATION = ("astronaut", "coffee", "chelsea", "rocket")
"""Photographs that scikit-image ships; entropies are means over them."""


@dataclass(frozen=True)
class Layers:
    """What was found in a tower of n blocks: `entropy` of the attention columns and `z` of the strongest FFN channel
    (n) each; the `emergence` block and the blocks chosen from it."""

    entropy: tuple[float, ...]
    z: tuple[float, ...]
    emergence: int
    fuse_layers: tuple[int, ...]
    cs_layers: tuple[int, ...]


def emergence_layer(entropy: Sequence[float]) -> int:
    """The block, 1 to n - 2, at which the entropy of the attention columns falls most against the block before it.

    There global tokens appear: few columns draw what all shared before. Ties to the first. The last block is never
    chosen, as its attention is what the others are fused into. Raises ValueError for less than three blocks.
    """
    if len(entropy) < 3:
        raise ValueError(f"expected the entropy of at least 3 blocks, got {len(entropy)}")
    falls = [entropy[i - 1] - entropy[i] for i in range(1, len(entropy) - 1)]
    return 1 + falls.index(max(falls))


def choose(entropy: Sequence[float], z: Sequence[float]) -> Layers:
    """Fuse the emergence block and the next; suppress every block from there to the last but one with an outlier.

    On OpenAI's ViT-B/16 the paper's blocks are 6 and 7 fused, and 6 to 10 the working reading of those suppressed.
    """
    last = len(entropy) - 1
    first = emergence_layer(entropy)
    fuse = tuple(i for i in (first, first + 1) if i < last)
    suppress = tuple(i for i in range(first, last) if z[i] >= OUTLIER_Z)
    return Layers(tuple(entropy), tuple(z), first, fuse, suppress)


def find(visual: Any, images: Tensor) -> Layers:
    """Measure and choose on normalised images (N, 3, H, W), one at a time."""
    model = DenseClip(visual, ROWS["clip"])
    each = [[column_entropy(block.attention) for block in trace(model, images[i : i + 1])] for i in range(len(images))]
    entropy = torch.tensor(each, dtype=torch.float64).mean(0).tolist()
    return choose(entropy, [outlier(block.mlp.c_proj.weight).z for block in visual.transformer.resblocks])


def resolve(row: Row, visual: Any, images: Callable[[], Tensor]) -> Row:
    """`row` with the layers it left open found in the tower; `images` makes normalised images (N, 3, H, W)."""
    if row.fuse_layers is not None and row.cs_layers is not None:
        return row
    check_tower(visual)
    found = find(visual, images())
    fuse = found.fuse_layers if row.fuse_layers is None else row.fuse_layers
    suppress = found.cs_layers if row.cs_layers is None else row.cs_layers
    return dataclasses.replace(row, fuse_layers=fuse, cs_layers=suppress)


def calibration_images(size: tuple[int, int], preprocessing: Sequence[float]) -> Tensor:
    """The photographs (N, 3, *size), whole, resized and normalised by `preprocessing` (mean and deviation of RGB)."""
    import skimage.data

    mean, std = torch.tensor(preprocessing[:6]).view(2, 3, 1, 1)
    result = torch.zeros(len(CALIBRATION), 3, *size)
    for i, name in enumerate(CALIBRATION):
        photograph = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None] / 255
        result[i] = F.interpolate(photograph, size=size, mode="bilinear", antialias=True)[0]
    return cast(Tensor, (result - mean) / std)
