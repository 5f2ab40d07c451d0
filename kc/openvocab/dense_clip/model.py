"""DenseClip: patch embeddings in the space of text, by any row of the table.

Attention is given as a matrix to look at, and applied to values without forming it. q, k, v are (N, heads, L, d);
L = 1 + h w tokens, the class token first, then patches in rows. Weights are (N, heads or 1, L, L), rows the queries.
"""

from __future__ import annotations

import itertools
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kc.errors import KcError
from kc.openvocab.dense_clip import tower
from kc.openvocab.dense_clip.rows import Row
from kc.openvocab.dense_clip.tower import suppressed

QQ, KK = ("q", "q"), ("k", "k")
PAIRS = {"qk": (("q", "k"),), "qq+kk": (QQ, KK), "qq": (QQ,), "kk+gauss": (KK,), "amf": (QQ,)}
"""The similarities of projections of the last block whose softmax, summed, is an attention; the others have none."""


class DenseClip(nn.Module):
    """A frozen open_clip vision transformer whose last block is read by `row`.

    The tower is shared, not copied, and never changed: suppressed weights are held beside it. Runs in the tower's type
    (float32, bfloat16 or float16) on its device.
    """

    def __init__(self, visual: Any, row: Row) -> None:
        """Raises KcError for a tower without the parts, for layers it has not, or that are still to be found."""
        super().__init__()
        tower.check_tower(visual)
        self.visual: Any = visual
        self.row = row
        last = len(visual.transformer.resblocks) - 1
        if row.fuse_layers is None or row.cs_layers is None:
            raise KcError("fuse_layers and cs_layers are not chosen yet: see kc.openvocab.dense_clip.study.resolve")
        if any(not 0 <= layer < last for layer in row.fuse_layers) or any(not 0 <= i <= last for i in row.cs_layers):
            given = f"cs_layers 0 to {last}, got {row.fuse_layers} and {row.cs_layers}"
            raise KcError(f"this tower has blocks 0 to {last}; fuse_layers may name 0 to {last - 1} and {given}")
        for layer in row.cs_layers:
            weight = visual.transformer.resblocks[layer].mlp.c_proj.weight
            self.register_buffer(f"suppressed_{layer}", suppressed(weight), persistent=False)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return cast(tuple[int, int], self.visual.conv1.kernel_size)

    def forward(self, images: Tensor, proxy: Tensor | None = None) -> Tensor:
        """Patch embeddings (N, D, h, w), not normalised, of normalised images (N, 3, H, W).

        `proxy` (N, C, h', w'): dense features of another model, for row `proxyclip` only, whose answer has their grid.
        """
        x, grid, fused = self.before_last(images)
        block = self.visual.transformer.resblocks[-1]
        row = self.row
        if (row.attention, row.residual, row.ffn) == ("qk", True, True):
            x = tower.run_block(block, x, self.second_weight(-1))[:, 1:]
        else:
            attended, out_grid = self._attended(block, x, grid, fused, proxy)
            x, grid = self._finished(block, x, grid, attended, out_grid), out_grid
        patches = tower.read_out(self.visual, x).transpose(1, 2)
        return patches.reshape(len(images), -1, *grid)

    def before_last(self, images: Tensor) -> tuple[Tensor, tuple[int, int], list[dict[str, Tensor]]]:
        """Tokens (N, L, D) that enter the last block, their grid, and q and k of each of the `fuse_layers`."""
        x, grid = tower.embed(self.visual, images)
        assert self.row.fuse_layers is not None
        found = {}
        for i, block in enumerate(self.visual.transformer.resblocks[:-1]):
            if i in self.row.fuse_layers:
                found[i] = tower.project(block, x, "qk")
            x = tower.run_block(block, x, self.second_weight(i))
        return x, grid, [found[i] for i in self.row.fuse_layers]

    def second_weight(self, layer: int) -> Tensor | None:
        """The suppressed second FFN weight (D, 4 D) of block `layer` (-1: the last); None if not suppressed."""
        layer %= len(self.visual.transformer.resblocks)
        return cast(Tensor | None, getattr(self, f"suppressed_{layer}", None))

    def weights(self, images: Tensor, proxy: Tensor | None = None) -> Tensor:
        """The last block's attention (N, heads or 1, L, L), rows the queries; (N, 1, P, P) of patches for a proxy."""
        x, grid, fused = self.before_last(images)
        return self._weights(self.visual.transformer.resblocks[-1], x, grid, fused, proxy)

    def _weights(
        self, block: Any, x: Tensor, grid: tuple[int, int], fused: list[dict[str, Tensor]], proxy: Tensor | None
    ) -> Tensor:
        row = self.row
        if row.attention == "proxy":
            return proxy_weights(_given(proxy), row.beta, row.gamma)
        if row.attention == "identity":
            return torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(len(x), 1, -1, -1)
        qkv = tower.project(block, x, "qk")
        bias = self._bias(grid, x)
        first, *more = (softmax_similarity(qkv[a], qkv[b], bias) for a, b in PAIRS[row.attention])
        if row.attention == "amf":
            maps = [*(softmax_similarity(f["q"], f["k"]) for f in fused), first]
            if row.head_mode == "averaged":
                maps = [m.mean(1, keepdim=True) for m in maps]
            return sum((w * m for w, m in zip(self._fuse_weights(), maps, strict=True)), torch.zeros_like(maps[0]))
        return sum(more, first)

    def _bias(self, grid: tuple[int, int], x: Tensor) -> Tensor | None:
        return gaussian(grid, self.row.sigma, x.device) if self.row.attention == "kk+gauss" else None

    def _fuse_weights(self) -> tuple[float, ...]:
        assert self.row.fuse_layers is not None
        n = len(self.row.fuse_layers) + 1
        return (1 / n,) * n if self.row.fuse_weights is None else self.row.fuse_weights

    def _attended(
        self, block: Any, x: Tensor, grid: tuple[int, int], fused: list[dict[str, Tensor]], proxy: Tensor | None
    ) -> tuple[Tensor, tuple[int, int]]:
        """What the heads gather for each patch, (N, heads, P, d), and the grid of P."""
        row = self.row
        pairs = PAIRS.get(row.attention, ())
        qkv = tower.project(block, x, "".join(dict.fromkeys((*itertools.chain(*pairs), "v"))))
        v = qkv["v"]
        if row.attention == "proxy":
            weights = self._weights(block, x, grid, fused, proxy)
            out_grid = (_given(proxy).shape[2], _given(proxy).shape[3])
            return weights.to(v.dtype) @ _resized(v[:, :, 1:], grid, out_grid), out_grid
        if row.attention == "identity":
            found = v
        elif row.attention == "amf" and row.head_mode == "averaged":
            found = self._weights(block, x, grid, fused, proxy) @ v
        else:
            bias = self._bias(grid, x)
            found, *more = (attend(qkv[a], qkv[b], v, bias) for a, b in pairs)
            found = sum(more, found)
        if row.attention == "amf" and row.head_mode == "per_head":
            # A sum of maps times the values is the sum of what each map gathers: no map is ever formed.
            *others, own = self._fuse_weights()
            found = own * found
            for weight, f in zip(others, fused, strict=True):
                found = found + weight * attend(f["q"], f["k"], v)
        return found[:, :, 1:], grid

    def _finished(
        self, block: Any, x: Tensor, grid: tuple[int, int], attended: Tensor, out_grid: tuple[int, int]
    ) -> Tensor:
        """Patch tokens (N, P, D) after the rest of the last block, as far as the row keeps it."""
        y = tower.merge_heads(block, attended)
        if self.row.residual:
            y = y + _resized(x[:, None, 1:], grid, out_grid)[:, 0]
        return tower.ffn(block, y, self.second_weight(-1)) if self.row.ffn else y


def _given(proxy: Tensor | None) -> Tensor:
    if proxy is None:
        raise KcError("row 'proxyclip' reads the dense features of another model, and none were given")
    return proxy


def _resized(tokens: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Patch tokens (N, heads, P, d) of `grid`, bilinear at the grid `to`."""
    if grid == to:
        return tokens
    n, heads, _, d = tokens.shape
    maps = tokens.transpose(2, 3).reshape(n, heads * d, *grid)
    resized = F.interpolate(maps, size=to, mode="bilinear", align_corners=False)
    return resized.view(n, heads, d, -1).transpose(2, 3)


def softmax_similarity(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(a b^T / sqrt(d) + bias) over the last axis, (N, heads, L, L), in the type of `a`."""
    logits: Tensor = a @ b.transpose(-1, -2) * a.shape[-1] ** -0.5
    return (logits if bias is None else logits + bias).float().softmax(-1).to(a.dtype)


def gaussian(grid: tuple[int, int], sigma: float, device: torch.device | None = None) -> Tensor:
    """NACLIP's neighbourhood bias G (L, L) float32: exp(-|p_i - p_j|^2 / (2 sigma^2)) between patches, distances in
    patches; 0 in the row and the column of the class token (arXiv 2404.08181)."""
    height, width = grid
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in (height, width)]
    rows, columns = ((axis[:, None] - axis[None]) ** 2 for axis in axes)
    # |p_i - p_j|^2 is a sum over the axes, so the exponential is a product.
    patches = torch.kron(torch.exp(-rows / (2 * sigma**2)), torch.exp(-columns / (2 * sigma**2)))
    return F.pad(patches, (1, 0, 1, 0))


def proxy_weights(features: Tensor, beta: float, gamma: float) -> Tensor:
    """ProxyCLIP's attention (N, 1, P, P) float32 from dense features (N, C, h, w), P = h w (arXiv 2408.04883).

    softmax(gamma (s - beta mean(s))) with s the cosines of patches, mean over all pairs of one image; negative entries
    are cut. Where the features are so alike that nothing of a row is left, the patch attends to itself (ours: the
    published formula is 0/0 there).
    """
    unit = F.normalize(features.float().flatten(2), dim=1)
    similarity = unit.transpose(1, 2) @ unit
    logits = gamma * (similarity - beta * similarity.mean((1, 2), keepdim=True))
    cut = logits < 0
    cut &= ~(torch.eye(cut.shape[1], dtype=torch.bool, device=cut.device) & cut.all(2, keepdim=True))
    return logits.masked_fill(cut, -torch.inf).softmax(-1)[:, None]


def attend(a: Tensor, b: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax_similarity(a, b, bias) @ v without the matrix, (N, heads, L, d)."""
    return F.scaled_dot_product_attention(a, b, v, attn_mask=None if bias is None else bias.to(a.dtype))
