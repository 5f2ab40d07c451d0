"""CIFAR-10 and CIFAR-100 from the binary version of their owners (the Python version is pickled, so it is not read).

Layout: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from kc.data.manifest import Manifest
from kc.data.readers.base import LayoutError, inside
from kc.data.sources import CifarSource
from kc.data.splits import CifarSplit
from kc.errors import DataError
from kc.types import BoolArray, Int64Array, Sample, SplitName, UInt8Array

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


@dataclass(frozen=True)
class CifarReader:
    """The records of a split's files in their order."""

    manifest: Manifest
    split: SplitName
    images: UInt8Array
    """(n, 3, 32, 32) RGB; mapped from the file where there is one."""
    labels: Int64Array
    """(n,) class ids."""
    indices: Int64Array

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path) -> CifarReader:
        """Map the split's files.

        Raises:
            DataError: a file is missing or empty, or ends within a record.
            LayoutError: records with an unknown label.
        """
        part, source = manifest.splits[split], manifest.source
        assert isinstance(part, CifarSplit)
        assert isinstance(source, CifarSource)
        size = source.label_bytes + _PIXELS
        records, problems = [], []
        for file in part.files:
            path = inside(root, file)
            try:
                values = np.memmap(path, dtype=np.uint8, mode="r")
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: cannot read the images ({error})") from error
            if len(values) % size:
                raise DataError(f"{path}: {len(values)} bytes are not a whole number of records of {size}: truncated?")
            records.append(values.reshape(-1, size))
            label = records[-1][:, source.label_bytes - 1]
            wrong = np.flatnonzero(~np.isin(label, manifest.class_ids()))
            problems += [f"{path}: record {i} has label {label[i]}, no class of {manifest.name}" for i in wrong]
        if problems:
            raise LayoutError(problems)
        joined = records[0] if len(records) == 1 else np.concatenate(records)
        labels = joined[:, source.label_bytes - 1].astype(np.int64)
        images = joined[:, source.label_bytes :].reshape(-1, 3, _SIDE, _SIDE)
        return cls(manifest, split, images, labels, np.arange(len(labels)))

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def sample_ids(self) -> list[str]:
        """ "SPLIT/NUMBER"."""
        return [f"{self.split}/{i:05d}" for i in self.indices.tolist()]

    @cached_property
    def class_table(self) -> BoolArray:
        """(n, C) bool, one True a row."""
        table: BoolArray = self.labels[self.indices][:, None] == np.asarray(self.manifest.class_ids())[None, :]
        return table

    def read(self, index: int) -> Sample:
        """The image (32, 32, 3) with its class id as `label`."""
        i = int(self.indices[index])
        image = np.ascontiguousarray(self.images[i].transpose(1, 2, 0))
        return Sample(f"{self.split}/{i:05d}", image, label=int(self.labels[i]))

    def select(self, indices: Sequence[int]) -> Self:
        """A reader of only these samples."""
        return replace(self, indices=self.indices[np.asarray(indices, dtype=np.int64)])
