"""The contract of an open-vocabulary base classifier: image or region features and any names -> probabilities."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kc.types import ClassInfo, Features, Int32Array, Int64Array, Segments, UInt8Array

Names = Sequence[Sequence[str]]
"""Per class its name and synonyms, at least one."""


class OpenVocabulary(Protocol):
    """A frozen classifier over names that it never saw as labels."""

    @property
    def key(self) -> str:
        """Name, settings and fingerprints: equal keys give equal answers."""

    def scores_from(self, pooled: Tensor, names: Names) -> Tensor:
        """Probabilities (N, C) float32 over `names` (C) of pooled features (N, D) of images."""


class FeatureVocabulary(OpenVocabulary, Protocol):
    """A base that reads the features of the run's encoder."""

    def scores_from_posterior(self, posterior: Tensor, names: Names) -> Tensor:
        """Probabilities (N, C) float32 over `names` (C) of posteriors (N, K) over the base's own K classes."""

    def posterior_map(self, features: Features) -> Tensor:
        """The base's own posterior (N, K, h, w) at each position of the coarsest level, to average over regions."""


@runtime_checkable
class DenseVocabulary(OpenVocabulary, Protocol):
    """A base that reads images itself, by a protocol of its own. `sample_id` is unique to an image.

    `background`: position in `names` of the class that stands for everything else, None where there is none.
    """

    def region_scores(
        self, image: UInt8Array, sample_id: str, segments: Segments, names: Names, background: int | None
    ) -> Tensor:
        """Probabilities (N, C) float32 over `names` (C) of N regions of `image` (H, W, 3) uint8 RGB."""

    def segment(self, image: UInt8Array, sample_id: str, names: Names, background: int | None) -> Int64Array:
        """Position in `names` (C) of the class of each pixel of `image` (H, W, 3) uint8 RGB, (H, W) int64."""


@dataclass(frozen=True)
class BaseProbabilities:
    """Probabilities (N, C) float32 of N regions or images over C names by a base's trained head and by its frozen CLIP,
    and which names the head was trained on, (C,) bool."""

    in_vocabulary: Tensor
    out_of_vocabulary: Tensor
    seen: Tensor


@runtime_checkable
class TwoHeaded(DenseVocabulary, Protocol):
    """A dense base whose scores combine the probabilities of two heads, which can be had apart."""

    def region_probabilities(
        self, image: UInt8Array, sample_id: str, segments: Segments, names: Names, background: int | None
    ) -> BaseProbabilities:
        """The probabilities of both heads for N regions of `image` (H, W, 3) uint8 RGB over `names` (C)."""


@runtime_checkable
class PanopticVocabulary(DenseVocabulary, Protocol):
    """A dense base that tells instances apart by itself."""

    def panoptic(
        self, image: UInt8Array, sample_id: str, names: Names, class_ids: Sequence[int], thing_ids: Collection[int]
    ) -> Int32Array:
        """A panoptic map (H, W, 2) int32 of `image` (H, W, 3) uint8 RGB over `names` (C) with `class_ids` (C).

        VOID where nothing is sure; classes in `thing_ids` have instances.
        """


@runtime_checkable
class CodedVocabulary(FeatureVocabulary, Protocol):
    """A base whose outputs can be stored as short codes, from which the probabilities of any names follow later."""

    def codes_from(self, pooled: Tensor) -> Tensor:
        """Codes (N, E) float16 of pooled features (N, D) of images."""

    def codes_from_posterior(self, posterior: Tensor) -> Tensor:
        """Codes (N, E) float16 of posteriors (N, K) over the base's own K classes."""

    def scores_from_codes(self, codes: Tensor, names: Names) -> Tensor:
        """Probabilities (N, C) float32 over `names` (C) of codes (N, E)."""


@runtime_checkable
class Trained(Protocol):
    """A base that knows which names it was trained on."""

    def trained_on(self, names: Names) -> Tensor:
        """Whether a name or synonym of each class is that of a training class, (C,) bool."""


def plain_name(name: str) -> str:
    """A name as it is compared: underscores read as spaces, no double spaces, no capitals."""
    return " ".join(name.replace("_", " ").split()).casefold()


def seen_in(names: Names, trained: Collection[str]) -> Tensor:
    """(C,) bool: classes of which a name or synonym is, by `plain_name`, one of those that a base was trained on."""
    return torch.tensor([any(plain_name(n) in trained for n in synonyms) for synonyms in names], dtype=torch.bool)


def names_of(classes: Iterable[ClassInfo]) -> list[tuple[str, ...]]:
    """Per class its name and synonyms, in order, as `OpenVocabulary` wants them."""
    return [(info.name, *info.synonyms) for info in classes]
