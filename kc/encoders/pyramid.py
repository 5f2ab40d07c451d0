"""The pyramid of an encoder as features of their own, so that a frozen backbone's levels can be cached."""

from __future__ import annotations

from torch import Tensor

from kc.encoders.base import Encoder
from kc.types import Features


class Pyramid(Encoder):
    """A view of `encoder` whose levels are those of its `pyramid`, with an empty pooled vector.

    It has a fingerprint of its own: in a cache the two never meet.
    """

    pooled_dim = 0

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.name = f"{encoder.name}-pyramid"
        self.architecture, self.preprocessing = encoder.architecture, encoder.preprocessing
        self.channels, self.strides = tuple(encoder.pyramid_channels), tuple(encoder.pyramid_strides)
        self.encoder = encoder

    def forward(self, images: Tensor) -> Features:
        """Pooled (N, 0) and the levels of `encoder.pyramid`, of `images` (N, 3, H, W) float RGB in [0, 1]."""
        return Features(images.new_zeros(len(images), 0), tuple(self.encoder.pyramid(images)), self.strides)
