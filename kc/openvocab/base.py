"""The contract of an open-vocabulary base classifier: image or region features and any names -> probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor

from kc.types import ClassInfo, Features

Names = Sequence[Sequence[str]]
"""Per class its name and synonyms, at least one."""


class OpenVocabulary(Protocol):
    """A frozen classifier over names that it never saw as labels."""

    @property
    def key(self) -> str:
        """Name, settings and fingerprints: equal keys give equal answers."""

    def scores_from(self, pooled: Tensor, names: Names) -> Tensor:
        """Probabilities (N, C) float32 over `names` (C) of pooled features (N, D), of images or of regions."""

    def scores_from_posterior(self, posterior: Tensor, names: Names) -> Tensor:
        """Probabilities (N, C) float32 over `names` (C) of posteriors (N, K) over the base's own K classes."""

    def posterior_map(self, features: Features) -> Tensor:
        """The base's own posterior (N, K, h, w) at each position of the coarsest level, to average over regions."""


def names_of(classes: Iterable[ClassInfo]) -> list[tuple[str, ...]]:
    """Per class its name and synonyms, in order, as `OpenVocabulary` wants them."""
    return [(info.name, *info.synonyms) for info in classes]
