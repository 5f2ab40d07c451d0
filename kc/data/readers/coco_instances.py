"""Things in the COCO instances format: one JSON of polygons and run lengths. https://cocodataset.org/#format-data"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np

from kc.data.manifest import Manifest
from kc.data.readers.base import check_same_size, inside, presence, read_image
from kc.data.readers.instance_masks import Marked, painted
from kc.data.splits import CocoInstancesSplit
from kc.errors import DataError, ManifestError
from kc.types import VOID, BoolArray, Int32Array, Int64Array, Sample, SplitName


@dataclass(frozen=True)
class InstancesItem:
    """One image: its file below the root, its size (H, W), and its instances in the order of the JSON."""

    image: str
    size: tuple[int, int]
    instances: tuple[Marked, ...]


@dataclass(frozen=True)
class CocoInstancesReader:
    """Every image of one JSON, also those without an instance, in order of file name.

    Instances are painted large to small; pixels of none are the background, else VOID.
    """

    manifest: Manifest
    split: SplitName
    root: Path
    items: tuple[InstancesItem, ...]

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path) -> CocoInstancesReader:
        """Read the split's JSON.

        Raises:
            DataError: the JSON is missing or damaged, or an image leaves the data folder.
            ManifestError: its categories are not the manifest's classes beside the background.
        """
        part = manifest.splits[split]
        assert isinstance(part, CocoInstancesSplit)
        path = inside(root, part.annotations)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            categories = {int(c["id"]): str(c["name"]).strip() for c in content["categories"]}
            marked: dict[str, list[Marked]] = {str(image["id"]): [] for image in content["images"]}
            for a in content["annotations"]:
                marked[str(a["image_id"])].append(_marked(a))
            items = [
                InstancesItem(
                    f"{part.images}/{image['file_name']}",
                    (int(image["height"]), int(image["width"])),
                    tuple(marked[str(image["id"])]),
                )
                for image in content["images"]
            ]
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: no such file; splits.{split}.annotations of {manifest.name} expects it"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a COCO instances file ({type(error).__name__}: {error})") from error
        _check_categories(path, categories, manifest)
        for item in items:
            inside(root, item.image)
            unknown = {class_id for class_id, _, _ in item.instances} - categories.keys()
            if unknown:
                raise DataError(f"{path}: an instance of {item.image} has category {min(unknown)}, which is not listed")
        if not items:
            raise DataError(f"{path}: no images")
        return cls(manifest, split, root, tuple(sorted(items, key=lambda item: item.image)))

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def sample_ids(self) -> list[str]:
        """ "SPLIT/STEM"."""
        return [f"{self.split}/{PurePosixPath(item.image).stem}" for item in self.items]

    @cached_property
    def class_table(self) -> BoolArray:
        """(n, C) bool: the classes of the listed instances, and the background where pixels are left for it.

        With a background, every image's instances are drawn.
        """
        if self.manifest.background_id is not None:
            return np.stack([presence(self._semantic(i), self.manifest) for i in range(len(self))])
        column = {class_id: c for c, class_id in enumerate(self.manifest.class_ids())}
        table = np.zeros((len(self), len(column)), dtype=np.bool_)
        for row, item in enumerate(self.items):
            table[row, [column[class_id] for class_id, _, _ in item.instances]] = True
        return table

    def panoptic(self, index: int) -> tuple[Int32Array, frozenset[int]]:
        """The map (H, W, 2) of class id and instance number, and which instances are crowds."""
        item = self.items[index]
        try:
            panoptic, crowd = painted(item.instances, *item.size)
        except Exception as error:  # pycocotools tells bad polygons and run lengths in many ways
            raise DataError(f"{self.root / item.image}: a segmentation cannot be drawn ({error})") from error
        if self.manifest.background_id is not None:
            panoptic[panoptic[..., 0] == VOID, 0] = self.manifest.background_id
        return panoptic, crowd

    def _semantic(self, index: int) -> Int64Array:
        return self.panoptic(index)[0][..., 0].astype(np.int64)

    def read(self, index: int) -> Sample:
        """Image, panoptic and semantic map at the original size."""
        image = read_image(self.root, self.items[index].image)
        panoptic, crowd = self.panoptic(index)
        path = str(self.root / self.items[index].image)
        check_same_size(path, image, f"{path} in its JSON", panoptic)
        semantic = panoptic[..., 0].astype(np.int64)
        if self.manifest.task_kind == "semantic":
            return Sample(self.sample_ids[index], image, semantic=semantic)
        return Sample(self.sample_ids[index], image, semantic=semantic, panoptic=panoptic, crowd=crowd)

    def image_file(self, index: int) -> Path:
        """The file of an image."""
        return inside(self.root, self.items[index].image)

    def select(self, indices: Sequence[int]) -> Self:
        """A reader of only these samples."""
        return replace(self, items=tuple(self.items[i] for i in indices))


def _marked(annotation: dict[str, Any]) -> Marked:
    return int(annotation["category_id"]), annotation["segmentation"], bool(annotation.get("iscrowd", 0))


def _check_categories(path: Path, categories: dict[int, str], manifest: Manifest) -> None:
    named = zip(manifest.classes, manifest.names_in_files(), strict=True)
    wanted = {c.id: name for c, name in named if not c.background}
    differences = [
        f"{i}: {categories.get(i, 'absent')} in the file, {wanted.get(i, 'absent')} in the manifest"
        for i in sorted(categories.keys() | wanted.keys())
        if categories.get(i) != wanted.get(i)
    ]
    if differences:
        shown = "; ".join(differences[:10]) + ("; ..." if len(differences) > 10 else "")
        raise ManifestError(f"{path}: its categories are not the classes of {manifest.name}: {shown}")
    stuff = [c.name for c in manifest.classes if not (c.thing or c.background)]
    if manifest.task_kind == "panoptic" and stuff:
        raise ManifestError(f"{path}: holds things alone, but {manifest.name} has the stuff class {stuff[0]!r}")
