"""A pyramid is cached beside the encoder's own features, and is the pyramid of the encoder."""

from __future__ import annotations

from pathlib import Path

import torch

from kc.encoders.base import Pyramid
from kc.encoders.cache import FeatureCache
from kc.encoders.lite import Lite0


def test_it_is_cached_apart_from_the_encoders_features(tmp_path: Path) -> None:
    encoder = Lite0.load()
    pyramid = Pyramid(encoder)
    images = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    own = FeatureCache(tmp_path, encoder)
    own.encode(images, ["a", "b"])
    cache = FeatureCache(tmp_path, pyramid)
    assert cache.missing(["a", "b"], (64, 32)) == ["a", "b"]
    cache.encode(images, ["a", "b"])
    again = FeatureCache(tmp_path, pyramid).get(["b", "a"], (64, 32))
    assert again is not None
    assert again.pooled.shape == (2, 0)
    assert again.strides == (4, 8, 16, 32)
    with torch.no_grad():
        wanted = encoder.pyramid(images)
    for level, other in zip(again.levels, wanted, strict=True):
        torch.testing.assert_close(level.flip(0), other, rtol=2e-3, atol=2e-3)  # float16
    kept = own.get(["a"], (64, 32))
    assert kept is not None
    assert kept.strides == (8, 16, 32)
