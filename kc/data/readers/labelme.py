"""Segmentation from LabelMe: one JSON of labelled shapes an image.

Format: https://github.com/wkentaro/labelme. Shapes are drawn in the file's order, a later one over an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.data.manifest import Manifest
from kc.data.readers.base import FileReader, LayoutError, column_of, columns_of, complete
from kc.data.readers.drawn import labelme_area, labelme_shape
from kc.data.readers.files import check_area, left_out, list_files
from kc.data.splits import LabelMeSplit
from kc.errors import DataError
from kc.outside import MOST_JSON, inside, read_json
from kc.types import VOID, Int32Array, SplitName


@dataclass(frozen=True)
class Shape:
    """`points` (n, 2) of x and y in pixels; shapes of one class and `group` are one instance."""

    kind: str
    class_id: int
    points: npt.NDArray[np.float64]
    group: str | None


@dataclass(frozen=True)
class LabelMeItem:
    """Files relative to the root, and what the JSON says. `size` (H, W)."""

    file: str
    image: str
    size: tuple[int, int]
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class LabelMeReader(FileReader[LabelMeItem]):
    """The images of a folder of JSON files, in order of file name. Pixels of no shape are the background, else VOID."""

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path) -> LabelMeReader:
        """Read every JSON of the split.

        Raises:
            LayoutError: files that are not LabelMe JSON, have an unknown label or a shape without area, or whose image
                is missing; images beside them that no file labels.
        """
        part = manifest.splits[split]
        assert isinstance(part, LabelMeSplit)
        files = list_files(root, part.path, frozenset({".json"}))
        items, problems = [], []
        for file in files:
            try:
                items.append(_item(manifest, root, file))
            except DataError as error:
                problems.append(str(error))
        empty = f"{root / part.path}: no JSON file; splits.{split} of {manifest.name} expects them there"
        found = complete(items, problems, empty)
        labelled = {item.image for item in found}
        images = {file: inside(root, file).relative_to(root.resolve()) for file in list_files(root, part.path)}
        if problems := left_out(root, part.path):
            raise LayoutError(problems)
        lost = [root / file for file, image in images.items() if image.as_posix() not in labelled]
        if lost:
            said = "no JSON file labels this image; save one, without shapes if there is nothing, or move the image"
            raise LayoutError([f"{file}: {said}" for file in lost])
        return cls(manifest, split, found, root)

    def name(self, item: LabelMeItem) -> str:
        """The stem of the JSON file."""
        return PurePosixPath(item.file).stem

    def where_labels(self, index: int) -> str:
        return f"{self.root}/{self.items[index].file}"

    def labels_upright(self, index: int) -> bool:
        return True  # LabelMe shows images upright

    def panoptic(self, index: int) -> tuple[Int32Array, frozenset[int]]:
        """The map (H, W, 2) of class id and instance number: things 1, 2, ... in the file's order, stuff 0."""
        item = self.items[index]
        rest = VOID if self.manifest.background_id is None else self.manifest.background_id
        panoptic = np.zeros((*item.size, 2), dtype=np.int32)
        panoptic[..., 0] = rest
        things, numbers = set(self.manifest.thing_ids), dict[tuple[Any, ...], int]()
        for position, shape in enumerate(item.shapes):
            instance = 0
            if shape.class_id in things:
                key = (shape.class_id, shape.group) if shape.group is not None else (position,)
                instance = numbers.setdefault(key, len(numbers) + 1)
            panoptic[labelme_area(shape.kind, shape.points, item.size)] = (shape.class_id, instance)
        return panoptic, frozenset()


def _item(manifest: Manifest, root: Path, file: str) -> LabelMeItem:
    path = inside(root, file)
    try:
        content = read_json(path, most=MOST_JSON)
        size = (content["imageHeight"], content["imageWidth"])
        if any(type(length) is not int for length in size):
            raise DataError(f"{path}: imageHeight and imageWidth are {size}; expected two whole numbers of pixels")
        relative = PurePosixPath(file).parent / str(content["imagePath"]).replace("\\", "/")
        shapes = tuple(_shape(manifest, path, shape) for shape in content["shapes"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: not a LabelMe file ({type(error).__name__}: {error})") from error
    check_area(size, f"{path}: its image")
    image = inside(root, str(relative))
    if not image.is_file():
        raise DataError(f"{path}: its image {image} is missing")
    return LabelMeItem(file, image.relative_to(root.resolve()).as_posix(), size, shapes)


def _shape(manifest: Manifest, path: Path, content: dict[str, Any]) -> Shape:
    label = str(content["label"]).strip()
    kind, points = labelme_shape(content, f"{path}: shape of {label!r:.80}")
    class_id = manifest.classes[column_of(label, columns_of(manifest), f"{path}", manifest)].id
    group = content.get("group_id")
    return Shape(kind, class_id, points, None if group is None else str(group))
