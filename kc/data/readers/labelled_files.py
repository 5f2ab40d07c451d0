"""Classification from image files whose classes are known from a list or from where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from kc.data.manifest import Manifest
from kc.data.readers.base import inside, one_class_each, read_image
from kc.types import BoolArray, Sample, SplitName


@dataclass(frozen=True)
class LabelledFile:
    """`file` relative to the root, `column` of its class in manifest order, `name` below the split, unique there."""

    file: str
    column: int
    name: str


@dataclass(frozen=True)
class LabelledFiles:
    """Image files with one class each, in a fixed order."""

    manifest: Manifest
    split: SplitName
    root: Path
    items: tuple[LabelledFile, ...]

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def sample_ids(self) -> list[str]:
        """ "SPLIT/NAME", with the suffix: a folder may hold a.jpg and a.png."""
        return [f"{self.split}/{item.name}" for item in self.items]

    @cached_property
    def class_table(self) -> BoolArray:
        """(n, C) bool, one True a row."""
        return one_class_each([item.column for item in self.items], len(self.manifest.classes))

    def read(self, index: int) -> Sample:
        """The image with its class id as `label`."""
        item = self.items[index]
        image = read_image(self.root, item.file)
        return Sample(f"{self.split}/{item.name}", image, label=self.manifest.classes[item.column].id)

    def image_file(self, index: int) -> Path:
        """The file of an image."""
        return inside(self.root, self.items[index].file)

    def select(self, indices: Sequence[int]) -> Self:
        """A reader of only these samples."""
        return replace(self, items=tuple(self.items[i] for i in indices))
