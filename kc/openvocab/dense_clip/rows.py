"""The table of training-free dense CLIP methods: which attention the last block uses, and what else it keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from kc.errors import KcError, unknown_name

Attention = Literal["qk", "identity", "qq+kk", "qq", "kk+gauss", "proxy", "amf"]
HeadMode = Literal["per_head", "averaged"]


@dataclass(frozen=True)
class Row:
    """How the last block of a frozen CLIP ViT is read. S(.) is softmax(. / sqrt(d_head)) over the keys.

    `attention` in the last block: qk S(QK^T); identity; qq+kk S(QQ^T) + S(KK^T), a sum whose rows add up to 2;
    qq S(QQ^T); kk+gauss softmax(KK^T / sqrt(d) + G); proxy softmax(M) of another model's similarities; amf the weighted
    sum of S(QK^T) of the blocks `fuse_layers` and S(QQ^T) of the last block. `residual`: the block's input is added.
    `ffn`: the block's FFN is applied. Layers are 0-based; None means found automatically (`study.resolve`).
    """

    attention: Attention
    residual: bool
    ffn: bool
    fuse_layers: tuple[int, ...] | None = ()
    fuse_weights: tuple[float, ...] | None = None
    """One weight a fused block and one for the last block's S(QQ^T), in this order; None is their mean."""
    head_mode: HeadMode = "per_head"
    """per_head: head h of every fused block meets head h of the last one; averaged: maps are averaged over heads."""
    cs_layers: tuple[int, ...] | None = ()
    """Blocks whose strongest FFN output channel is suppressed (`suppress.suppressed`)."""
    sigma: float = 5.0
    """NACLIP's width of G in patches."""
    beta: float = 1.2
    """ProxyCLIP's share of the mean similarity below which a pair of patches is cut."""
    gamma: float = 3.0
    """ProxyCLIP's sharpness."""

    def __post_init__(self) -> None:
        if self.head_mode not in get_args(HeadMode):
            raise unknown_name("head mode", self.head_mode, get_args(HeadMode))
        if self.fuse_layers != () and self.attention != "amf":
            raise KcError(f"fuse_layers {self.fuse_layers} need attention 'amf', got {self.attention!r}")
        if not (self.sigma > 0 and math.isfinite(self.sigma) and self.gamma > 0):
            raise KcError(f"sigma and gamma must be above 0, got {self.sigma} and {self.gamma}")
        known = None if self.fuse_layers is None else len(self.fuse_layers) + 1
        if self.fuse_weights is not None and known is not None and len(self.fuse_weights) != known:
            each = f"one for each of the blocks {self.fuse_layers} and one for the last block"
            raise KcError(f"fuse_weights {self.fuse_weights}: expected {known}, {each}")

    @property
    def key(self) -> str:
        """The whole recipe as one line."""
        parts = [self.attention, f"residual={int(self.residual)}", f"ffn={int(self.ffn)}"]
        if self.attention == "amf":
            weights = "mean" if self.fuse_weights is None else "+".join(map(str, self.fuse_weights))
            parts += [f"fuse={_joined(self.fuse_layers)}", f"weights={weights}", f"heads={self.head_mode}"]
        if self.attention == "kk+gauss":
            parts.append(f"sigma={self.sigma}")
        if self.attention == "proxy":
            parts += [f"beta={self.beta}", f"gamma={self.gamma}"]
        return " ".join([*parts, f"cs={_joined(self.cs_layers)}"])


def _joined(layers: tuple[int, ...] | None) -> str:
    return "auto" if layers is None else "+".join(map(str, layers)) or "none"


ROWS: dict[str, Row] = {
    # Radford et al. 2021, arXiv 2103.00020
    "clip": Row("qk", residual=True, ffn=True),
    # Zhou et al. 2022, arXiv 2112.01071
    "maskclip": Row("identity", residual=True, ffn=True),
    # Wang et al. 2024, arXiv 2312.01597
    "sclip": Row("qq+kk", residual=True, ffn=True),
    # Lan et al. 2024, arXiv 2407.12442
    "clearclip": Row("qq", residual=False, ffn=False),
    # Hajimiri et al. 2025, arXiv 2404.08181
    "naclip": Row("kk+gauss", residual=False, ffn=False),
    # Lan et al. 2024, arXiv 2408.04883
    "proxyclip": Row("proxy", residual=False, ffn=False),
    # Wang et al. 2025, arXiv 2502.06818; a re-implementation, not all details of which are published
    "gclip": Row("amf", residual=False, ffn=False, fuse_layers=None, cs_layers=None),
}
