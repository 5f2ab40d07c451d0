"""A classifier that grows with the vocabulary: old columns are kept as they are, new ones are appended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


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

    def get_extra_state(self) -> dict[str, list[int]]:
        """The class of each column, and how many columns each step brought."""
        return {"class_ids": list(self.class_ids), "step_sizes": list(self.step_sizes)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Grow to the columns of `state`, whose first ones are there already."""
        position, start = 0, len(self.class_ids)
        for size in state["step_sizes"]:
            position += size
            if position > start:
                self.grow(state["class_ids"][position - size : position])

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
