"""CIFAR-10 and CIFAR-100 from the binary version of their owners (the Python version is pickled, so it is not read).

Layout: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kc.data.manifest import Manifest
from kc.data.readers.base import LabelledArrays, complete
from kc.data.sources import CifarSource
from kc.data.splits import CifarSplit
from kc.errors import DataError
from kc.outside import inside
from kc.types import SplitName

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


def open_cifar(manifest: Manifest, split: SplitName, root: Path) -> LabelledArrays:
    """The records of a split's files in their order, mapped from the file where there is one.

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
    found = complete(records, problems, f"splits.{split} of {manifest.name} names no file")
    joined = found[0] if len(found) == 1 else np.concatenate(found)
    labels = joined[:, source.label_bytes - 1].astype(np.int64)
    images = joined[:, source.label_bytes :].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return LabelledArrays(manifest, split, tuple(range(len(labels))), images, labels)
