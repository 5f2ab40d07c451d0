"""A benchmark seen several times over: every image once in each domain, one domain after the other."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from kc.data.corruptions import corrupt
from kc.data.readers.base import Reader
from kc.data.streams import Domain
from kc.types import BoolArray, Int64Array, Sample


@dataclass(frozen=True)
class DomainReader:
    """Row d * n + i is image i of the n of `base` in domain d: other pixels, the same labels.

    `rows`: those of all rows that are kept, None for all. A clean image keeps its id; a corrupted one is
    "ID~jpeg-3", so that nothing derived from an image is taken for that of another. The noise of an image follows from
    its id: it is the same in every epoch, task, process and run.
    """

    base: Reader
    domains: tuple[Domain, ...]
    rows: Int64Array | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def domain(self) -> Int64Array:
        """(n,) int64: the domain of each row."""
        of_rows: Int64Array = self._rows // len(self.base)
        return of_rows

    @cached_property
    def sample_ids(self) -> list[str]:
        """Unique over all domains."""
        ids = self.base.sample_ids
        return [self._id(ids[i], self.domains[d]) for d, i in self._pairs()]

    @cached_property
    def class_table(self) -> BoolArray:
        """(n, C) bool: corruption changes no label."""
        table: BoolArray = self.base.class_table[self._rows % len(self.base)]
        return table

    def read(self, index: int) -> Sample:
        """The sample with its pixels corrupted."""
        number, i = divmod(int(self._rows[index]), len(self.base))
        sample, domain = self.base.read(i), self.domains[number]
        if domain.clean:
            return sample
        name = self._id(sample.id, domain)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        return replace(sample, id=name, image=corrupt(sample.image, domain.corruption, domain.strength, rng))

    def select(self, indices: Sequence[int]) -> Self:
        """A reader of only these samples."""
        return replace(self, rows=self._rows[np.asarray(indices, dtype=np.int64)])

    @cached_property
    def _rows(self) -> Int64Array:
        return np.arange(len(self.base) * len(self.domains)) if self.rows is None else self.rows

    def _pairs(self) -> list[tuple[int, int]]:
        return [divmod(row, len(self.base)) for row in self._rows.tolist()]

    @staticmethod
    def _id(sample_id: str, domain: Domain) -> str:
        return sample_id if domain.clean else f"{sample_id}~{domain.name}"
