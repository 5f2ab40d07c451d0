"""Seeded rows that look like features: long-tailed classes, clusters, a spectrum that decays; made chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kc.types import Float32Array, Int64Array, Rows

CHUNK = 16_384
REGIONS = 16
"""Rows that come from one image."""


@dataclass(frozen=True)
class Synthetic:
    """`rows` unit vectors of `dim` values in `classes` classes whose sizes fall as 1 / rank.

    A row is its class's centre plus within-class spread, both with a standard deviation that falls as j^-0.5 over the
    latent axes j (features of frozen encoders have such spectra), turned by one random rotation. Queries are drawn
    from the same distribution and are not stored.
    """

    rows: int
    dim: int = 768
    classes: int = 1000
    spread: float = 0.7
    seed: int = 0

    @cached_property
    def _spectrum(self) -> Float32Array:
        return (np.arange(1, self.dim + 1) ** -0.5).astype(np.float32)

    @cached_property
    def _rotation(self) -> Float32Array:
        normal = np.random.default_rng([self.seed, 0]).standard_normal((self.dim, self.dim))
        return np.linalg.qr(normal)[0].astype(np.float32)

    @cached_property
    def _centres(self) -> Float32Array:
        normal = np.random.default_rng([self.seed, 1]).standard_normal((self.classes, self.dim), dtype=np.float32)
        return normal * self._spectrum

    def _draw(self, n: int, stream: int) -> tuple[Float32Array, Int64Array]:
        rng = np.random.default_rng([self.seed, 2, stream])
        share = 1 / np.arange(1, self.classes + 1)
        class_id = rng.choice(self.classes, n, p=share / share.sum())
        latent = self._centres[class_id]
        latent += self.spread * self._spectrum * rng.standard_normal((n, self.dim), dtype=np.float32)
        keys = latent @ self._rotation
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
        return keys, class_id.astype(np.int64)

    def chunks(self) -> Iterator[tuple[int, Float32Array, Int64Array]]:
        """First row, keys (n, dim) float32 of unit length, class ids (n,) of each chunk."""
        for number, first in enumerate(range(0, self.rows, CHUNK)):
            yield first, *self._draw(min(CHUNK, self.rows - first), number)

    def as_rows(self) -> Iterator[Rows]:
        """The chunks as rows to be stored."""
        for first, keys, class_id in self.chunks():
            row = np.arange(first, first + len(class_id))
            yield Rows(keys, class_id, tuple(f"s{i}" for i in row // REGIONS), row % REGIONS)

    def queries(self, n: int) -> Float32Array:
        """(n, dim) unit vectors of the same distribution that are not among the rows."""
        return self._draw(n, 2**31)[0]
