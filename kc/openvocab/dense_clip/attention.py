"""Attention of the last block: each formula as a matrix to look at, and applied to values as fast as it allows.

q, k, v are (N, heads, L, d); L = 1 + h w tokens, the class token first, then patches in rows. Weights are
(N, heads or 1, L, L) with rows the queries.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
