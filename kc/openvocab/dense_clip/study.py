"""What happens inside the tower: attention and values of every block, global tokens, similarity of values by mask; and
which blocks GCLIP fuses and suppresses, found from the weights and a few photographs instead of set by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kc.openvocab.dense_clip import tower
from kc.openvocab.dense_clip.model import DenseClip, softmax_similarity
from kc.openvocab.dense_clip.rows import ROWS, Row
from kc.openvocab.dense_clip.tower import check_tower, outlier
from kc.types import VOID, Int64Array


@dataclass(frozen=True)
class BlockTrace:
    """One block on a batch of N images: `attention` S(QK^T) (N, heads, L, L), rows the queries, and `values` (N, L, D),
    the value projections of all heads side by side. L = 1 + h w, the class token first."""

    layer: int
    attention: Tensor
    values: Tensor


@torch.no_grad()
def trace(model: DenseClip, images: Tensor) -> Iterator[BlockTrace]:
    """Every block in turn, with the suppressed weights of `model`, on normalised images (N, 3, H, W).

    One block is held at a time: twelve heads of a large image are hundreds of megabytes.
    """
    x, _ = tower.embed(model.visual, images)
    for layer, block in enumerate(model.visual.transformer.resblocks):
        qkv = tower.project(block, x, "qkv")
        values = qkv["v"].transpose(1, 2).flatten(2)
        yield BlockTrace(layer, softmax_similarity(qkv["q"], qkv["k"]), values)
        x = tower.run_block(block, x, model.second_weight(layer))


def received(attention: Tensor) -> Tensor:
    """Share of all patches' attention to patches that each patch receives, (N, P) float32, rows add to 1.

    Mean over heads and queries of attention (N, heads, L, L). The class token, which attends to and gathers from
    everything, is left out on both sides.
    """
    columns = attention.float()[:, :, 1:, 1:].mean((1, 2))
    return columns / columns.sum(1, keepdim=True)


def column_entropy(attention: Tensor) -> float:
    """Entropy of `received` divided by log P, mean over images: 1 where all patches receive alike, 0 where one
    receives everything. Global tokens draw attention to themselves and lower it."""
    p = received(attention)
    return float((-torch.special.xlogy(p, p).sum(1) / np.log(p.shape[1])).mean())


@dataclass(frozen=True)
class Similarity:
    """Mean cosine of pairs of value embeddings, of two patches in one mask (`inside`) and in two masks (`across`);
    NaN where there is no pair."""

    inside: float
    across: float


def value_similarity(values: Tensor, labels: Int64Array) -> Similarity:
    """In-in and in-out similarity (GCLIP, figure 1b) of the patch values (P, D) of one image.

    labels: (P,) which mask each patch lies in; VOID patches do not count. A patch is not paired with itself.
    """
    known = labels != VOID
    unit = F.normalize(values.float(), dim=1)[torch.from_numpy(known).to(values.device)]
    cosines = (unit @ unit.T).cpu().numpy()
    same = labels[known][:, None] == labels[known][None]
    inside, across = same & ~np.eye(len(same), dtype=bool), ~same
    return Similarity(_mean(cosines, inside), _mean(cosines, across))


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    return float(values[where].mean()) if where.any() else float("nan")


def patch_labels(target: Int64Array, grid: tuple[int, int]) -> Int64Array:
    """The label (h w,) int64 that most pixels of each patch have in `target` (H, W), ties to the lowest; VOID where
    it holds less than half of them."""
    height, width = target.shape
    rows, columns = np.arange(height) * grid[0] // height, np.arange(width) * grid[1] // width
    cell = (rows[:, None] * grid[1] + columns[None]).ravel()
    top = int(target.max(initial=0)) + 2
    columns = np.where(target == VOID, top - 1, target).ravel()
    counts = np.bincount(cell * top + columns, minlength=grid[0] * grid[1] * top).reshape(-1, top)
    best = counts.argmax(1)
    sure = (best < top - 1) & (2 * counts[np.arange(len(best)), best] >= counts.sum(1))
    return np.where(sure, best, VOID).astype(np.int64)


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
    left = {name: getattr(found, name) for name in ("fuse_layers", "cs_layers") if getattr(row, name) is None}
    return dataclasses.replace(row, **left)


def calibration_images(size: tuple[int, int], preprocessing: Sequence[float]) -> Tensor:
    """The photographs (N, 3, *size), whole, resized and normalised by `preprocessing` (mean and deviation of RGB)."""
    import skimage.data

    mean, std = torch.tensor(preprocessing[:6]).view(2, 3, 1, 1)
    result = torch.zeros(len(CALIBRATION), 3, *size)
    for i, name in enumerate(CALIBRATION):
        photograph = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None] / 255
        result[i] = F.interpolate(photograph, size=size, mode="bilinear", antialias=True)[0]
    return cast(Tensor, (result - mean) / std)
