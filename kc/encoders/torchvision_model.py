"""torchvision:MODEL[@PATH]: a ResNet with output stride 16, the backbone of DeepLabV3 in continual segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import get_model

from kc.encoders.base import Encoder, normalized, weights_of
from kc.errors import unknown_name
from kc.spec import EncoderSpec
from kc.types import Features

MODELS = ("resnet50", "resnet101", "resnet152")
"""Networks of bottleneck blocks, the only ones whose stride torchvision can replace by dilation."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TorchvisionResNet(Encoder):
    """A ResNet whose last stage is dilated instead of strided (Chen et al. 2017, DeepLabV3, arXiv 1706.05587).

    Levels at strides 8, 16, 16 (512, 1024, 2048 channels), pooled 2048. The weights are random until loaded; use
    `load`.
    """

    spec = EncoderSpec(
        "A ResNet of torchvision with output stride 16 (the backbone of MiB and PLOP).",
        form="torchvision:MODEL[@FILE]",
        argument=r"[^@]+(@.+)?",
    )

    def __init__(self, model: str) -> None:
        super().__init__()
        self.name = f"torchvision:{model}"
        self.architecture = f"{model}-os16"
        self.strides = (8, 16, 16)
        self.channels = (512, 1024, 2048)
        self.pooled_dim = 2048
        self.preprocessing = (*MEAN, *STD)
        self.network: Any = get_model(model, weights=None, replace_stride_with_dilation=[False, False, True])
        del self.network.fc

    def forward(self, images: Tensor) -> Features:
        """Pooled (N, 2048) and three levels of images (N, 3, H, W) float RGB in [0, 1]; sizes are rounded up."""
        net = self.network
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(normalized(images, self.preprocessing))))))
        levels = []
        for stage in (net.layer2, net.layer3, net.layer4):
            x = stage(x)
            levels.append(x)
        return Features(x.mean((2, 3)), tuple(levels), self.strides)

    @classmethod
    def load(cls, argument: str) -> TorchvisionResNet:
        """The ResNet `MODEL[@FILE]`, weights from a file (safetensors, or one torch reads with `weights_only`) or the
        hub.

        In evaluation mode on the CPU. A file holds the state dict of torchvision's `model`, with or without its
        classifier; the hub's are IMAGENET1K_V1. Raises UnknownNameError for another model, MissingExtraError where the
        weights cannot be had or do not fit: it is never left with random ones.
        """
        model, at, path = argument.partition("@")
        if model not in MODELS:
            raise unknown_name("torchvision model", model, MODELS)
        encoder = cls(model)
        with weights_of(encoder.name, path or None):
            weights = _read(path) if at else get_model(model, weights="IMAGENET1K_V1").state_dict()
            own = {key: value for key, value in weights.items() if not key.startswith("fc.")}
            missing, extra = encoder.network.load_state_dict(own, strict=False)
            if missing or extra:
                raise ValueError(f"{len(missing)} tensors missing {missing[:3]}, {len(extra)} unknown {extra[:3]}")
        return encoder.eval()


def _read(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if path.endswith(".safetensors"):
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError(f"{path}: expected a state dict, found {type(state).__name__}")
    return state
