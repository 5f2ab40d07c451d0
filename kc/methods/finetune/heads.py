"""Heads that grow with the vocabulary: old columns are kept as they are, new ones are appended."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kc.types import Features


class GrowingClassifier(nn.Module):
    """A classifier whose columns are class ids in the order in which they were learned, linear if not said otherwise.

    Args:
        in_features: D.
        pointwise: classify every position of a map (N, D, h, w) instead of vectors (N, D).
        layers: linear layers of each step's perceptron, of width D, with ReLU between; 1 where pointwise.
    """

    def __init__(self, in_features: int, *, pointwise: bool = False, layers: int = 1) -> None:
        super().__init__()
        self.in_features = in_features
        self.pointwise = pointwise
        self.layers = layers
        self.class_ids: list[int] = []
        self.steps = nn.ModuleList()
        self.step_sizes: list[int] = []

    def grow(self, class_ids: Sequence[int]) -> None:
        """Append one column for each of `class_ids`; a known id is an error."""
        again = set(class_ids) & set(self.class_ids)
        if again:
            raise ValueError(f"classes {sorted(again)} already have a column")
        if not class_ids:
            return
        layer: nn.Module
        if self.pointwise:
            layer = nn.Conv2d(self.in_features, len(class_ids), 1)
        else:
            layer = perceptron(self.in_features, len(class_ids), self.layers)
        device = next(self.parameters()).device if self.class_ids else None
        self.steps.append(layer.to(device) if device is not None else layer)
        self.class_ids.extend(class_ids)
        self.step_sizes.append(len(class_ids))

    def columns(self, class_ids: Sequence[int]) -> list[int]:
        """Positions of `class_ids` among the columns; KeyError for an id that was never learned."""
        position = {c: i for i, c in enumerate(self.class_ids)}
        return [position[c] for c in class_ids]

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., C), or pointwise (N, D, h, w) -> (N, C, h, w); C = number of classes learned so far."""
        return torch.cat([step(x) for step in self.steps], dim=1 if self.pointwise else -1)


def perceptron(width: int, out_features: int, layers: int) -> nn.Module:
    """`layers` linear layers of `width` inputs each, with ReLU between; one of them is just that layer."""
    last = nn.Linear(width, out_features)
    if layers == 1:
        return last
    hidden = (part for _ in range(layers - 1) for part in (nn.Linear(width, width), nn.ReLU()))
    return nn.Sequential(*hidden, last)


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
        pooled = features.pooled
        return nn.functional.normalize(pooled, dim=1) * math.sqrt(pooled.shape[1]) if self.unit else pooled


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
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1, bias=False), nn.GroupNorm(8, width)) for c in channels
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width))
            for _ in range(depth)
        )

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
