"""PASCAL-Context as distributed (Mottaghi et al. 2014): one MAT-file an image, `LabelMap` (H, W) uint16 of 1..459."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.data.manifest import Manifest
from kc.data.readers.base import inside
from kc.data.readers.index_png import IndexPngReader, paired
from kc.data.splits import IndexPngSplit, PascalContextSplit
from kc.errors import DataError
from kc.types import VOID, SplitName

VARIABLE = "LabelMap"


@dataclass(frozen=True)
class PascalContextReader(IndexPngReader):
    """Pairs of image and MAT-file; numbers of no class are the background where there is one, else VOID."""

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path) -> PascalContextReader:
        """Pair the split's files. Raises as `IndexPngReader.open`."""
        part = manifest.splits[split]
        assert isinstance(part, PascalContextSplit)
        as_masks = IndexPngSplit(
            reader="index_png", images=part.images, labels=part.labels, names=part.names, label_ending=".mat"
        )
        return cls(manifest, split, root, paired(manifest, split, root, as_masks))

    @property
    def others(self) -> int | None:
        """The background, or VOID: the 59-class benchmark leaves 400 classes unnamed."""
        return VOID if self.manifest.background_id is None else self.manifest.background_id

    def values(self, index: int) -> npt.NDArray[np.integer[Any]]:
        """`LabelMap` (H, W).

        Raises:
            DataError: the file is missing, damaged, or holds no such map of whole numbers.
        """
        return read_label_map(inside(self.root, self.items[index].mask))


def read_label_map(path: Path) -> npt.NDArray[np.integer[Any]]:
    """The variable `LabelMap` (H, W) of a MAT-file, and nothing else of it. Raises DataError."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=[VARIABLE])
    except Exception as error:  # damaged files fail in many ways: struct.error, zlib.error, TypeError ...
        raise DataError(f"{path}: cannot read this MAT-file ({type(error).__name__}: {error})") from error
    values = content.get(VARIABLE)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "ui" or values.ndim != 2:
        found = "nothing of that name" if values is None else f"{getattr(values, 'dtype', type(values).__name__)}"
        raise DataError(f"{path}: expected a map {VARIABLE} (H, W) of whole numbers, found {found}")
    return values
