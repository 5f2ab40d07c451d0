"""Figures and tensors of what happens inside a tower: global-token maps, channel norms, similarity of values."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from safetensors.torch import save
from torch import Tensor

from kc.files import write_atomic
from kc.openvocab.dense_clip.model import DenseClip
from kc.openvocab.dense_clip.study import Similarity, column_entropy, received, trace
from kc.openvocab.dense_clip.tower import channel_norms, embed, outlier
from kc.types import UInt8Array

COLOURS = ("#a6cbe3", "#d55e00", "#009e73", "#cc79a7")


def save_attention(model: DenseClip, images: Tensor, path: Path, proxy: Tensor | None = None) -> None:
    """Write a safetensors file: `attention_<layer>` (N, heads, L, L) and `values_<layer>` (N, L, D) of every block and
    `last` (N, heads or 1, L, L), what the row makes of the last one, as float16. Raises RunError where it cannot.
    """
    tensors = {}
    for block in trace(model, images):
        tensors[f"attention_{block.layer:02d}"] = block.attention.half().cpu().contiguous()
        tensors[f"values_{block.layer:02d}"] = block.values.half().cpu().contiguous()
    with torch.no_grad():
        tensors["last"] = model.weights(images, proxy).half().cpu().contiguous()
    _, grid = embed(model.visual, images[:1])
    write_atomic(path, save(tensors, metadata={"row": model.row.key, "grid": f"{grid[0]}x{grid[1]}"}))


def global_tokens(model: DenseClip, image: Tensor, picture: UInt8Array, path: Path) -> None:
    """One panel a block: the share of attention that each patch of `image` (1, 3, H, W), normalised, receives.

    `picture` (H, W, 3) is shown first. Values are multiples of an even share. The suffix of `path` is the format.
    """
    _, (h, w) = embed(model.visual, image)
    blocks = list(trace(model, image))
    figure, axes = _panels(len(blocks) + 1, 7, 1.7, 1.7 * picture.shape[0] / picture.shape[1] + 0.5, margin=0.6)
    axes[0].imshow(picture)
    axes[0].set_title("image", fontsize=8)
    shares = [received(b.attention)[0].reshape(h, w).cpu().numpy() * h * w for b in blocks]
    top = max(float(share.max()) for share in shares)
    shown = None
    for ax, block, share in zip(axes[1:], blocks, shares, strict=False):
        shown = ax.imshow(share, cmap="cividis", vmin=0, vmax=top)
        ax.set_title(f"block {block.layer}, entropy {column_entropy(block.attention):.3f}", fontsize=7)
    for ax in axes:
        ax.axis("off")
    assert shown is not None
    bar = figure.colorbar(shown, ax=list(axes), fraction=0.02, pad=0.01)
    bar.set_label("attention received / even share", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _save(figure, path)


def norm_profile(model: DenseClip, path: Path) -> None:
    """One panel a block: the weight norm of each output channel of the FFN's second layer, the strongest marked."""
    blocks = model.visual.transformer.resblocks
    figure, axes = _panels(len(blocks), 4, 2.6, 1.7, sharey=True)
    for layer, (ax, block) in enumerate(zip(axes, blocks, strict=False)):
        weight = block.mlp.c_proj.weight
        found = outlier(weight)
        ax.plot(channel_norms(weight).cpu().numpy(), color="#0072b2", linewidth=0.5)
        ax.plot([found.channel], [found.norm], "v", color="#d55e00", markersize=4)
        ax.set_title(f"block {layer}: channel {found.channel}, z {found.z:.1f}", fontsize=7)
        ax.tick_params(labelsize=6)
    for ax in axes[len(blocks) :]:
        ax.remove()
    figure.supxlabel("output channel", fontsize=8)
    figure.supylabel("weight norm", fontsize=8)
    _save(figure, path)


def similarity_lines(rows: Mapping[str, Sequence[Similarity]], path: Path) -> None:
    """In-in (solid) and in-out (dashed) similarity of value embeddings over the blocks, one colour a model."""
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    ax = figure.subplots()
    for i, (name, values) in enumerate(rows.items()):
        # The first is drawn wide, so that it is seen where another covers it.
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linewidth": 1.4 if i else 4.5}
        x = range(len(values))
        ax.plot(x, [v.inside for v in values], marker="o", markersize=3, label=f"{name}, one mask", **look)
        ax.plot(x, [v.across for v in values], dashes=(3, 2), label=f"{name}, two masks", **look)
    ax.set_xlabel("block", fontsize=9)
    ax.set_ylabel("mean cosine of values", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=7, frameon=False)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    _save(figure, path)


def mean_similarity(each: Iterable[Sequence[Similarity]]) -> list[Similarity]:
    """Per block the mean over images, NaN values left out; NaN where no image has a pair."""
    stacked: npt.NDArray[np.float64] = np.array([[(s.inside, s.across) for s in blocks] for blocks in each])
    if not stacked.size:
        return []
    known = ~np.isnan(stacked)
    sums, counts = np.where(known, stacked, 0.0).sum(0), known.sum(0)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return [Similarity(float(inside), float(across)) for inside, across in means]


def _panels(n: int, most: int, width: float, height: float, margin: float = 0, **options: Any) -> tuple[Figure, Any]:
    """A figure of `n` panels of these inches, at most `most` in a row, and its axes."""
    columns = min(most, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(width * columns + margin, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options).ravel()


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lstrip(".") or "png", dpi=150)
    write_atomic(path, buffer.getvalue())
