"""The parts of an open_clip vision transformer, called by name: its blocks run as they are, the last one in pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kc.errors import KcError

TOWER_PARTS = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")
BLOCK_PARTS = ("ln_1", "attn", "ls_1", "ln_2", "mlp", "ls_2")
SUPPRESSED = "mlp.c_proj.weight"
"""Name, inside a block, of the weight that channel suppression changes."""


def check_tower(visual: Any) -> None:
    """Raise KcError, naming what is missing, unless `visual` is a ViT whose last block can be taken apart."""
    missing = [part for part in TOWER_PARTS if getattr(visual, part, None) is None]
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", ())
    if not missing and len(blocks) < 2:
        missing = ["two transformer.resblocks"]
    for block in blocks:
        missing += [part for part in BLOCK_PARTS if not hasattr(block, part)]
        attention = getattr(block, "attn", None)
        if not isinstance(attention, nn.MultiheadAttention) or attention.in_proj_weight is None:
            missing.append("attn.in_proj_weight of an nn.MultiheadAttention")
        if not hasattr(getattr(block, "mlp", None), "c_proj"):
            missing.append("mlp.c_proj")
    if getattr(visual, "attn_pool", None) is not None:
        missing.append("a projection of each token (this tower pools by attention)")
    if missing:
        reads = "dense CLIP reads open_clip vision transformers such as ViT-B-16-quickgelu"
        raise KcError(f"{reads}; {type(visual).__name__} has no {', '.join(dict.fromkeys(missing))}")


def embed(visual: Any, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tokens (N, 1 + h w, D) before the first block, and (h, w), of normalised images (N, 3, H, W).

    Pixels beyond the last whole patch are left out, as the tower's convolution leaves them. At another grid than the
    tower's own, position embeddings of patches are resized bicubically to exactly (h, w); the class token keeps its
    own. Raises ValueError for an image without a whole patch.
    """
    kernel = visual.conv1.kernel_size
    if images.shape[-2] < kernel[0] or images.shape[-1] < kernel[1]:
        raise ValueError(f"an image of {tuple(images.shape[-2:])} has no whole patch of {tuple(kernel)}")
    patches = visual.conv1(images.to(visual.conv1.weight.dtype))
    grid = (patches.shape[2], patches.shape[3])
    tokens = patches.flatten(2).transpose(1, 2)
    first = visual.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
    return visual.ln_pre(torch.cat([first, tokens], 1) + _positions(visual, grid).to(tokens.dtype)), grid


def _positions(visual: Any, grid: tuple[int, int]) -> Tensor:
    own: Tensor = visual.positional_embedding
    if grid == tuple(visual.grid_size):
        return own
    first, rest = own[:1].float(), own[1:].float()
    maps = rest.view(*visual.grid_size, -1).permute(2, 0, 1)[None]
    # size=, not scale_factor=: a rounded factor would shift every position a little.
    resized = F.interpolate(maps, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([first, resized[0].flatten(1).T])


def run_block(block: Any, x: Tensor, c_proj: Tensor | None = None) -> Tensor:
    """One whole block as open_clip has it, on tokens (N, L, D), with another second FFN weight where given."""
    # Blocks made with batch_first=False expect (L, N, D): fed otherwise, tokens would attend over the batch.
    turned = not block.attn.batch_first
    x = x.transpose(0, 1) if turned else x
    x = block(x) if c_proj is None else functional_call(block, {SUPPRESSED: c_proj}, (x,))
    return x.transpose(0, 1) if turned else x


def project(block: Any, x: Tensor, parts: str) -> dict[str, Tensor]:
    """The wanted `parts` of "qkv", each (N, heads, L, d): per-head projections of ln_1(x), x (N, L, D)."""
    attn = block.attn
    y = block.ln_1(x)
    n, length, width = y.shape
    result = {}
    for part in parts:
        start = "qkv".index(part) * width
        bias = None if attn.in_proj_bias is None else attn.in_proj_bias[start : start + width]
        flat = F.linear(y, attn.in_proj_weight[start : start + width], bias)
        result[part] = flat.view(n, length, attn.num_heads, -1).transpose(1, 2)
    return result


def merge_heads(block: Any, attended: Tensor) -> Tensor:
    """The attention branch (N, L, D) of what the heads gathered (N, heads, L, d): output projection and layer scale."""
    return cast(Tensor, block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2))))


def ffn(block: Any, x: Tensor, c_proj: Tensor | None = None) -> Tensor:
    """x + FFN(ln_2(x)), (N, L, D)."""
    y = block.ln_2(x)
    y = block.mlp(y) if c_proj is None else functional_call(block.mlp, {"c_proj.weight": c_proj}, (y,))
    return cast(Tensor, x + block.ls_2(y))


def read_out(visual: Any, x: Tensor) -> Tensor:
    """Tokens (N, L, D) of the last block in the space shared with text, (N, L, D_text)."""
    return cast(Tensor, visual.ln_post(x) @ visual.proj)


@dataclass(frozen=True)
class Outlier:
    """The strongest output channel of one FFN: its weight norm, the mean norm of the others, and how many of their
    standard deviations lie between (`z`; infinite where the others do not vary)."""

    channel: int
    norm: float
    others: float
    z: float


def channel_norms(weight: Tensor) -> Tensor:
    """L2 norm (D,) float32 of each output channel of a linear weight (D, D_in)."""
    return cast(Tensor, torch.linalg.vector_norm(weight.detach().float(), dim=1))


def outlier(weight: Tensor) -> Outlier:
    """The output channel d^ = argmax_d ||W[d, :]|| of `weight` (D, D_in) beside the others."""
    norms = channel_norms(weight)
    channel = int(norms.argmax())
    others = torch.cat([norms[:channel], norms[channel + 1 :]])
    mean, deviation = float(others.mean()), float(others.std(correction=0))
    gap = float(norms[channel]) - mean
    return Outlier(channel, float(norms[channel]), mean, gap / deviation if deviation > 0 else float("inf"))


def suppressed(weight: Tensor) -> Tensor:
    """A copy of `weight` (D, D_in) whose strongest output channel has the mean norm of the other channels."""
    found = outlier(weight)
    result = weight.detach().clone()
    result[found.channel] *= found.others / found.norm
    return result
