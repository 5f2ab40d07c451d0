"""Classification from one folder a class: SPLIT/NAME/*.jpg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np

from kc.data.manifest import Manifest
from kc.data.readers.base import inside, list_files, read_image
from kc.data.sources import FolderSplit
from kc.errors import DataError
from kc.types import BoolArray, Sample, SplitName


@dataclass(frozen=True)
class FolderReader:
    """Images of class folders, classes in manifest order, files sorted by name."""

    manifest: Manifest
    split: SplitName
    root: Path
    items: tuple[tuple[str, int], ...]
    """(file relative to root, column of its class)."""

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path) -> FolderReader:
        """List the split's files.

        Raises:
            DataError: a class folder is missing or empty, or a folder is of no class of the manifest.
        """
        part = manifest.splits[split]
        assert isinstance(part, FolderSplit)
        top = inside(root, part.path)
        if not top.is_dir():
            raise DataError(f"{top}: no such folder; splits.{split}.path of {manifest.name} expects it")
        folders = [c.folder or c.name for c in manifest.classes]
        found = {entry.name for entry in top.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
        unknown = sorted(found - {PurePosixPath(name).parts[0] for name in folders})
        if unknown:
            raise DataError(
                f"{top / unknown[0]}: a folder of no class of {manifest.name}; allowed: {', '.join(sorted(folders))}"
            )
        items: list[tuple[str, int]] = []
        for column, folder in enumerate(folders):
            files = list_files(root, f"{part.path}/{folder}")
            if not files:
                raise DataError(f"{top / folder}: no image of class {manifest.classes[column].name!r}")
            items += [(file, column) for file in files]
        return cls(manifest, split, root, tuple(items))

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def sample_ids(self) -> list[str]:
        """ "SPLIT/FOLDER/FILE", with the suffix: a folder may hold a.jpg and a.png."""
        return [self._sample_id(file) for file, _ in self.items]

    @cached_property
    def class_table(self) -> BoolArray:
        """(n, C) bool, one True a row."""
        columns = np.array([column for _, column in self.items], dtype=np.int64)
        table: BoolArray = columns[:, None] == np.arange(len(self.manifest.classes))[None, :]
        return table

    def read(self, index: int) -> Sample:
        """The image with its class id as `label`."""
        file, column = self.items[index]
        image = read_image(self.root, file)
        return Sample(self._sample_id(file), image, label=self.manifest.classes[column].id)

    def _sample_id(self, file: str) -> str:
        part = self.manifest.splits[self.split]
        assert isinstance(part, FolderSplit)
        return f"{self.split}/{PurePosixPath(file).relative_to(part.path)}"

    def select(self, indices: Sequence[int]) -> Self:
        """A reader of only these samples."""
        return replace(self, items=tuple(self.items[i] for i in indices))
