"""Label maps as their owners distribute them: PASCAL-Context and the full ADE20K.

PASCAL-Context (Mottaghi et al. 2014): one MAT-file an image, `LabelMap` (H, W) uint16 of 1..459. ADE20K (Zhou et al.
2017): class and instance in the colours of PNGs beside the images, parts in others; class number = R / 10 * 256 + G,
whole numbers, B tells the instances of an image apart (loadAde20K of the owners' tools).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.data.manifest import Manifest
from kc.data.readers.files import list_files, read_mask
from kc.data.readers.index_png import IndexPngReader, Pair, paired
from kc.data.readers.mask_values import with_objects
from kc.data.sources import Ade20kFullSource
from kc.data.splits import Ade20kFullSplit, IndexPngSplit, PascalContextSplit
from kc.errors import DataError
from kc.outside import inside
from kc.types import VOID, Int32Array, Int64Array, SplitName

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
        return cls(manifest, split, paired(manifest, split, root, as_masks), root)

    @property
    def others(self) -> int | None:
        """The background, or VOID: the 59-class benchmark leaves 400 classes unnamed."""
        return VOID if self.manifest.background_id is None else self.manifest.background_id

    def labels_upright(self, index: int) -> bool:
        return False  # a MAT-file says nothing

    def stored(self, index: int) -> npt.NDArray[np.integer[Any]]:
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


@dataclass(frozen=True)
class Ade20kFullReader(IndexPngReader):
    """Whole objects of every image, or parts of one level of the images that have it; numbers of no class are VOID."""

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path) -> Ade20kFullReader:
        """Pair `NAME.jpg` with `NAME_seg.png` or `NAME_parts_LEVEL.png`. Raises as `IndexPngReader.open`."""
        part, source = manifest.splits[split], manifest.source
        assert isinstance(part, Ade20kFullSplit)
        assert isinstance(source, Ade20kFullSource)
        if source.level:
            return cls(manifest, split, _with_parts(root, part.path, source.level), root)
        as_masks = IndexPngSplit(
            reader="index_png",
            images=part.path,
            labels=part.path,
            image_ending=".jpg",
            label_ending="_seg.png",
            recursive=True,
        )
        return cls(manifest, split, paired(manifest, split, root, as_masks), root)

    @property
    def others(self) -> int | None:
        """VOID: a benchmark names some of the 3,000 classes."""
        return VOID

    def stored(self, index: int) -> npt.NDArray[np.integer[Any]]:
        """Class numbers (H, W); 0 is unlabelled."""
        rgb = read_mask(self.root, self.items[index].mask, channels=3).astype(np.int64)
        numbers: Int64Array = rgb[..., 0] // 10 * 256 + rgb[..., 1]
        return numbers

    def panoptic(self, index: int) -> tuple[Int32Array, frozenset[int]]:
        """The map (H, W, 2) of class id and instance number, and no crowds."""
        blue = read_mask(self.root, self.items[index].mask, channels=3)[..., 2]
        objects = with_objects(self.semantic(index), blue, self.manifest.thing_ids, self.where_labels(index))
        return objects, frozenset()


def _with_parts(root: Path, folder: str, level: int) -> tuple[Pair, ...]:
    ending = f"_parts_{level}.png"
    masks = [f for f in list_files(root, folder, frozenset({".png"}), recursive=True) if f.endswith(ending)]
    images = set(list_files(root, folder, frozenset({".jpg"}), recursive=True))
    if not masks:
        raise DataError(f"{root / folder}: no file that ends in {ending}")
    stems = [mask.removesuffix(ending) for mask in masks]
    lost = [stem for stem in stems if f"{stem}.jpg" not in images]
    if lost:
        raise DataError(f"{root / lost[0]}{ending}: parts without an image; expected {root / lost[0]}.jpg")
    return tuple(Pair(s.removeprefix(f"{folder}/"), f"{s}.jpg", m) for s, m in zip(stems, masks, strict=True))
