"""What happens inside the tower: attention and values of every block, global tokens, similarity of values by mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kc.openvocab.dense_clip import tower
from kc.openvocab.dense_clip.model import DenseClip, softmax_similarity
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
