"""Semantic segmentation from image files and single-channel PNGs of class ids with the same stem."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np

from kc.data.cache import atomic_file, cache_dir
from kc.data.manifest import Manifest
from kc.data.readers.base import check_same_size, inside, list_files, presence, read_image, read_mask
from kc.data.sources import IndexPngSplit
from kc.errors import DataError
from kc.types import VOID, BoolArray, Int64Array, Sample, SplitName

_THREADS = 4
_INDEX_VERSION = "index-png-1"


@dataclass(frozen=True)
class IndexPngReader:
    """Pairs of image and mask, sorted by stem."""

    manifest: Manifest
    split: SplitName
    root: Path
    items: tuple[tuple[str, str], ...]
    """(image file, mask file) relative to root."""

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path) -> IndexPngReader:
        """Pair the split's files.

        Raises:
            DataError: an image without a mask or a mask without an image, two images of one stem, an empty split.
        """
        part = manifest.splits[split]
        assert isinstance(part, IndexPngSplit)
        images = _by_stem(list_files(root, part.images))
        masks = _by_stem(list_files(root, part.labels, frozenset({".png"})))
        for stem, file in images.items():
            if stem not in masks:
                raise DataError(f"{root / file}: its mask is missing; expected {root / part.labels / stem}.png")
        for stem, file in masks.items():
            if stem not in images:
                raise DataError(f"{root / file}: a mask without an image; expected {root / part.images / stem}.jpg")
        if not images:
            raise DataError(f"{root / part.images}: no images; splits.{split} of {manifest.name} expects them there")
        return cls(manifest, split, root, tuple((images[stem], masks[stem]) for stem in sorted(images)))

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def sample_ids(self) -> list[str]:
        """ "SPLIT/STEM"."""
        return [f"{self.split}/{PurePosixPath(image).stem}" for image, _ in self.items]

    @cached_property
    def class_table(self) -> BoolArray:
        """(n, C) bool. Reads every mask the first time, then comes from the cache folder."""
        path = cache_dir() / "index" / f"{self._fingerprint()}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                table: BoolArray = stored["table"]
            if table.shape == (len(self), len(self.manifest.classes)) and table.dtype == np.bool_:
                return table
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # absent or damaged: what follows computes it again from the masks
        with ThreadPoolExecutor(_THREADS) as pool:
            table = np.stack(list(pool.map(lambda i: presence(self.semantic(i), self.manifest), range(len(self)))))
        with atomic_file(path) as file:
            np.savez(file, table=table)
        return table

    def semantic(self, index: int) -> Int64Array:
        """The mask as (H, W) int64 class ids, the manifest's ignore value as VOID.

        Raises:
            DataError: a value that is neither a class id nor the ignore value.
        """
        file = self.items[index][1]
        values = read_mask(self.root, file, channels=1)
        ids, ignore = self.manifest.class_ids(), self.manifest.ignore
        known = max(*ids, -1 if ignore is None else ignore) + 1
        table = np.full(known + 1, -1, dtype=np.int64)  # its last entry stands for every value beyond
        table[list(ids)] = ids
        if ignore is not None:
            table[ignore] = VOID
        semantic: Int64Array = table[np.where((values < 0) | (values > known), known, values)]
        if semantic.min(initial=0) < 0:
            wrong = ", ".join(str(v) for v in np.unique(values[semantic < 0])[:8])
            allowed = ", ".join(str(v) for v in sorted(ids)) + ("" if ignore is None else f", ignore {ignore}")
            raise DataError(
                f"{self.root / file}: value {wrong} is no class of {self.manifest.name}; allowed: {allowed}"
            )
        return semantic

    def read(self, index: int) -> Sample:
        """Image and semantic map at the original size."""
        image_file, mask_file = self.items[index]
        image, semantic = read_image(self.root, image_file), self.semantic(index)
        check_same_size(str(self.root / image_file), image, str(self.root / mask_file), semantic)
        return Sample(self.sample_ids[index], image, semantic=semantic)

    def select(self, indices: Sequence[int]) -> Self:
        """A reader of only these samples."""
        return replace(self, items=tuple(self.items[i] for i in indices))

    def _fingerprint(self) -> str:
        """Of what the presence table depends on: the manifest, and name, size and time of every mask."""
        digest = hashlib.sha256(f"{_INDEX_VERSION} {self.manifest.fingerprint}".encode())
        for _, mask in self.items:
            stat = inside(self.root, mask).stat()
            digest.update(f"\n{mask} {stat.st_size} {stat.st_mtime_ns}".encode())
        return digest.hexdigest()


def _by_stem(files: list[str]) -> dict[str, str]:
    stems: dict[str, str] = {}
    for file in files:
        stem = PurePosixPath(file).stem
        if stem in stems:
            raise DataError(f"{file}: has the same name as {stems[stem]}; each stem may appear once in a folder")
        stems[stem] = file
    return stems
