"""mlp:WIDTHxDEPTH: a multilayer perceptron on grey pixels, to be trained from nothing (Split-MNIST of Hsu et al.)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kc.encoders.base import Encoder, check_images
from kc.spec import EncoderSpec
from kc.types import Features

SIDE = 32
"""Images are scaled to 32 x 32 grey pixels, the size that Hsu et al. 2018 (arXiv 1810.12488) pad MNIST to."""


class Mlp(Encoder):
    """`depth` layers of `width` units with ReLU on grey pixels; no dense level. Its weights are random.

    Use `load` for the one that is the same everywhere; `to_train` draws new weights from torch's generator.
    """

    spec = EncoderSpec(
        "A multilayer perceptron on grey pixels with random weights: use it with --train full.",
        form="mlp:WIDTHxDEPTH",
        argument=r"[1-9]\d*x[1-9]\d*",
        paper="Hsu et al. 2018, arXiv 1810.12488",
        kinds=("classification",),
    )
    unit_pooled = False

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.name = f"mlp:{width}x{depth}"
        self.architecture = f"mlp {SIDE} {width} {depth}"
        self.strides, self.channels, self.pooled_dim = (), (), width
        self.preprocessing = (0.1, 0.2752)  # mean and deviation of padded MNIST, as Hsu et al. normalise it
        self.width, self.depth = width, depth
        pairs = itertools.pairwise([SIDE * SIDE, *[width] * depth])
        self.network = nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())))

    def forward(self, images: Tensor) -> Features:
        """Pooled (N, width) of `images` (N, 3, H, W) float RGB in [0, 1]; no levels."""
        check_images(images)
        mean, deviation = self.preprocessing
        grey = F.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), SIDE)
        return Features(self.network(((grey - mean) / deviation).flatten(1)))

    def to_train(self) -> Encoder:
        """A network with weights of its own: nothing was learned that a copy could keep."""
        return Mlp(self.width, self.depth).to(next(self.parameters()).device)

    @classmethod
    def load(cls, argument: str) -> Mlp:
        """The perceptron `WIDTHxDEPTH` with fixed random weights, on the CPU, in evaluation mode."""
        width, depth = (int(number) for number in argument.split("x"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return cls(width, depth).eval()
