"""The decoders of segmentation: from the encoder's levels to the map that the classifier reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from kc.errors import unknown_name
from kc.methods.finetune.heads import FeaturePyramid
from kc.types import Features

DECODERS = ("fpn", "deeplabv3")


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
        alone = self.training and len(x) == 1
        if alone:
            # The branch that pools the whole image has one value a channel then: no variance to normalise by.
            for norm in norms:
                norm.eval()
        out: Tensor = self.aspp(x)
        if alone:
            for norm in norms:
                norm.train()
        return out


def decoder_of(name: str, channels: Sequence[int]) -> tuple[nn.Module, int, int]:
    """The decoder `name` for levels of these channels, its width, and the scale at which losses of pixels are taken.

    `fpn` answers at the finest level and is trained at twice its resolution; `deeplabv3` answers at stride 16 and is
    trained at the full one, as in the published comparisons.
    """
    if name == "fpn":
        pyramid = FeaturePyramid(channels)
        return pyramid, pyramid.width, 2
    if name == "deeplabv3":
        deeplab = DeepLab(channels)
        return deeplab, deeplab.width, 16
    raise unknown_name("decoder", name, DECODERS)
