"""Panoptic segmentation in the COCO format: one JSON of segments, one PNG of segment ids an image.

Kirillov et al. 2019, "Panoptic Segmentation"; format: https://cocodataset.org/#format-data (panoptic).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np

from kc.data.manifest import Manifest
from kc.data.readers.base import LayoutError, check_same_size, inside, read_image, read_mask
from kc.data.splits import CocoPanopticSplit
from kc.errors import DataError, ManifestError
from kc.types import VOID, BoolArray, Int32Array, Sample, SplitName


@dataclass(frozen=True)
class CocoSegment:
    """One segment of the JSON: its colour number in the PNG, its class, whether it is a crowd."""

    id: int
    class_id: int
    crowd: bool


@dataclass(frozen=True)
class CocoItem:
    """One image: files relative to the root, and its segments in the order of the JSON."""

    image: str
    mask: str
    segments: tuple[CocoSegment, ...]


@dataclass(frozen=True)
class CocoPanopticReader:
    """The annotated images of one JSON, in order of image file name."""

    manifest: Manifest
    split: SplitName
    root: Path
    items: tuple[CocoItem, ...]

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path) -> CocoPanopticReader:
        """Read the split's JSON.

        Raises:
            DataError: the JSON is missing or damaged, names an unknown category or leaves the data folder.
            LayoutError: images of the JSON without an annotation, or with two.
            ManifestError: its categories are not the manifest's classes; lists the difference.
        """
        part = manifest.splits[split]
        assert isinstance(part, CocoPanopticSplit)
        path = inside(root, part.annotations)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            categories = {int(c["id"]): (str(c["name"]).strip(), bool(c["isthing"])) for c in content["categories"]}
            # As text: COCO numbers its images, the ADE20K files of Mask2Former name them.
            names = {str(image["id"]): str(image["file_name"]) for image in content["images"]}
            items = [_item(part, annotation, names) for annotation in content["annotations"]]
            labelled = Counter(str(annotation["image_id"]) for annotation in content["annotations"])
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: no such file; splits.{split}.annotations of {manifest.name} expects it"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a COCO panoptic annotation file ({type(error).__name__}: {error})") from error
        _check_categories(path, categories, manifest)
        for item in items:
            inside(root, item.image)
            inside(root, item.mask)
            for segment in item.segments:
                if segment.class_id not in categories:
                    raise DataError(
                        f"{path}: segment {segment.id} of {item.mask} has category {segment.class_id}; "
                        f"allowed: {', '.join(map(str, categories))}"
                    )
        if not items:
            raise DataError(f"{path}: no annotations")
        wrong = [i for i in names if labelled[i] != 1]
        if wrong:
            raise LayoutError([f"{path}: {labelled[i]} annotations of image {names[i]}; expected one" for i in wrong])
        return cls(manifest, split, root, tuple(sorted(items, key=lambda item: item.image)))

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def sample_ids(self) -> list[str]:
        """ "SPLIT/STEM"."""
        return [f"{self.split}/{PurePosixPath(item.image).stem}" for item in self.items]

    @cached_property
    def class_table(self) -> BoolArray:
        """(n, C) bool, from the JSON; `read` verifies that every segment has pixels."""
        column = {class_id: c for c, class_id in enumerate(self.manifest.class_ids())}
        table = np.zeros((len(self), len(column)), dtype=np.bool_)
        for row, item in enumerate(self.items):
            table[row, [column[segment.class_id] for segment in item.segments]] = True
        return table

    def panoptic(self, index: int) -> tuple[Int32Array, frozenset[int]]:
        """The map (H, W, 2) of class id and instance number, and the instance numbers that are crowds.

        Things are numbered 1, 2, ... in the order of the JSON, stuff is 0; pixels of no segment are (VOID, 0).

        Raises:
            DataError: a segment of the PNG is not in the JSON, or one of the JSON has no pixel.
        """
        item = self.items[index]
        rgb = read_mask(self.root, item.mask, channels=3)
        padded = np.zeros((*rgb.shape[:2], 4), dtype=np.uint8)
        padded[..., :3] = rgb
        segment_id = padded.view("<u4")[..., 0]
        # Segment id -> its place in `rows`, 0 for ids that there are not. Of the table's 32 MiB only the pages of the
        # image's own segments are ever touched, which is ten times faster than sorting the pixels.
        place = np.zeros(1 << 24, dtype=np.uint16)
        rows = np.full((len(item.segments) + 2, 2), (VOID, 0), dtype=np.int32)
        place[0] = 1
        crowd: set[int] = set()
        n_things = 0
        for number, segment in enumerate(item.segments, start=2):
            place[segment.id] = number
            instance = 0
            if segment.class_id in self._things:
                n_things += 1
                instance = n_things
                if segment.crowd:
                    crowd.add(instance)
            rows[number] = segment.class_id, instance
        numbers = place.take(segment_id)
        count = np.bincount(numbers.ravel(), minlength=len(rows))
        if count[0]:
            allowed = sorted(segment.id for segment in item.segments)
            raise DataError(
                f"{self.root / item.mask}: segment {segment_id[numbers == 0].min()} is not in the annotation file; "
                f"allowed: 0 (unlabelled), {', '.join(map(str, allowed))}"
            )
        absent = sorted(s.id for number, s in enumerate(item.segments, start=2) if not count[number])
        if absent:
            raise DataError(f"{self.root / item.mask}: segment {absent[0]} of the annotation file has no pixel")
        # Both numbers of a pixel in one step, as eight bytes.
        pairs = rows.view(np.int64)[:, 0].take(numbers)
        return pairs.view(np.int32).reshape(*numbers.shape, 2), frozenset(crowd)

    @cached_property
    def _things(self) -> frozenset[int]:
        return frozenset(self.manifest.thing_ids)

    def read(self, index: int) -> Sample:
        """Image, panoptic and semantic map at the original size."""
        item = self.items[index]
        image = read_image(self.root, item.image)
        panoptic, crowd = self.panoptic(index)
        check_same_size(f"{self.root}/{item.image}", image, f"{self.root}/{item.mask}", panoptic)
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


def _item(part: CocoPanopticSplit, annotation: dict[str, Any], names: dict[str, str]) -> CocoItem:
    segments = tuple(
        CocoSegment(int(s["id"]), int(s["category_id"]), bool(s.get("iscrowd", 0))) for s in annotation["segments_info"]
    )
    image, mask = names[str(annotation["image_id"])], str(annotation["file_name"])
    return CocoItem(f"{part.images}/{image}", f"{part.masks}/{mask}", segments)


def _check_categories(path: Path, categories: dict[int, tuple[str, bool]], manifest: Manifest) -> None:
    names = manifest.names_in_files()
    wanted = {c.id: (name, c.thing) for c, name in zip(manifest.classes, names, strict=True)}
    differences = []
    for class_id in sorted(categories.keys() | wanted.keys()):
        in_file, in_manifest = categories.get(class_id), wanted.get(class_id)
        if in_file != in_manifest:
            differences.append(f"{class_id}: {_said(in_file)} in the file, {_said(in_manifest)} in the manifest")
    if differences:
        shown = "; ".join(differences[:10]) + ("; ..." if len(differences) > 10 else "")
        raise ManifestError(f"{path}: its categories are not the classes of {manifest.name}: {shown}")


def _said(category: tuple[str, bool] | None) -> str:
    return "absent" if category is None else f"{category[0]} ({'thing' if category[1] else 'stuff'})"
