"""Decoders: from what an encoder says of images to what the classifier reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from kc.errors import unknown_name
from kc.types import Features


class PooledVector(nn.Module):
    """The decoder of whole images: pooled features as they are, or scaled to one norm.

    Args:
        unit: scale each vector (N, D) to norm sqrt(D), so that one learning rate serves every pretrained encoder.
    """

    def __init__(self, unit: bool) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, features: Features) -> Tensor:
        """(N, D)."""
        x = features.pooled
        return nn.functional.normalize(x, dim=1) * math.sqrt(x.shape[1]) if self.unit else x


class FeaturePyramid(nn.Module):
    """A small FPN (Lin et al. 2017, arXiv 1612.03144): lateral 1x1, top-down sum, 3x3 blocks on the finest map.

    Args:
        channels: channels of each level, finest first.
        width: channels of the output.
        depth: residual 3x3 blocks; three instead of one cost twice the time and gained nothing on digit-scenes.
    """

    def __init__(self, channels: Sequence[int], width: int = 96, depth: int = 1) -> None:
        super().__init__()
        self.width = width
        lateral = (nn.Conv2d(c, width, 1, bias=False) for c in channels)
        blocks = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(depth))
        self.lateral = nn.ModuleList(nn.Sequential(layer, nn.GroupNorm(8, width)) for layer in lateral)
        self.blocks = nn.ModuleList(nn.Sequential(layer, nn.GroupNorm(8, width)) for layer in blocks)

    def forward(self, features: Features) -> Tensor:
        """Levels of N images -> (N, width, h, w) at the finest level's resolution."""
        out: Tensor | None = None
        for layer, level in zip(reversed(list(self.lateral)), reversed(features.levels), strict=True):
            x = layer(level)
            if out is not None:
                x = x + nn.functional.interpolate(out, size=x.shape[-2:], mode="bilinear", align_corners=False)
            out = x
        assert out is not None
        out = nn.functional.relu(out)
        for block in self.blocks:
            out = nn.functional.relu(out + block(out))
        return out


class DeepLab(nn.Module):
    """torchvision's atrous spatial pyramid pooling on the coarsest level (Chen et al. 2017, arXiv 1706.05587).

    Args:
        channels: channels of each level; the last is read.
        width: channels of the output.
        rates: dilations, those of output stride 16.
    """

    def __init__(self, channels: Sequence[int], width: int = 256, rates: Sequence[int] = (6, 12, 18)) -> None:
        super().__init__()
        self.width = width
        self.aspp = ASPP(channels[-1], rates, width)

    def forward(self, features: Features) -> Tensor:
        """Levels of N images -> (N, width, h, w) at the coarsest level's resolution."""
        x = features.levels[-1]
        norms = [m for m in self.aspp.convs[-1].modules() if isinstance(m, nn.BatchNorm2d)]
        alone = len(x) == 1
        # Of one image the branch that pools all of it has one value a channel: no variance to normalise by.
        for norm in norms:
            norm.train(self.training and not alone)
        out: Tensor = self.aspp(x)
        for norm in norms:
            norm.train(self.training)
        return out


DECODERS = {"fpn": (FeaturePyramid, 2), "deeplabv3": (DeepLab, 16)}
"""Name -> decoder, and the scale at which losses of pixels are taken."""


def decoder_of(name: str, channels: Sequence[int]) -> tuple[nn.Module, int, int]:
    """The decoder `name` for levels of these channels, its width, and the scale at which losses of pixels are taken.

    `fpn` answers at the finest level and is trained at twice its resolution; `deeplabv3` answers at stride 16 and is
    trained at the full one, as in the published comparisons.
    """
    if name not in DECODERS:
        raise unknown_name("decoder", name, DECODERS)
    kind, scale = DECODERS[name]
    decoder = kind(channels)
    return decoder, decoder.width, scale
