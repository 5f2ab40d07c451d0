"""Segmentation from LabelMe: one JSON of labelled shapes an image.

Format: https://github.com/wkentaro/labelme. Shapes are drawn in the file's order, a later one over an earlier one.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from kc.data.manifest import Manifest
from kc.data.readers.base import FileReader, LayoutError, column_of, columns_of, complete
from kc.data.readers.files import inside, list_files
from kc.data.splits import LabelMeSplit
from kc.errors import DataError
from kc.types import VOID, BoolArray, Int32Array, SplitName

_FEWEST_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2}
"""The shapes that have an area."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Shape:
    """`points` (x, y) in pixels; shapes of one class and `group` are one instance."""

    kind: str
    class_id: int
    points: tuple[Point, ...]
    group: int | None


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
            panoptic[_area(shape, item.size)] = (shape.class_id, instance)
        return panoptic, frozenset()


def _item(manifest: Manifest, root: Path, file: str) -> LabelMeItem:
    path = inside(root, file)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        size = (int(content["imageHeight"]), int(content["imageWidth"]))
        relative = PurePosixPath(file).parent / str(content["imagePath"]).replace("\\", "/")
        shapes = tuple(_shape(manifest, path, shape) for shape in content["shapes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a LabelMe file ({type(error).__name__}: {error})") from error
    if min(size) < 1:
        raise DataError(f"{path}: the image is said to be {size[1]}x{size[0]}")
    image = inside(root, str(relative))
    if not image.is_file():
        raise DataError(f"{path}: its image {image} is missing")
    return LabelMeItem(file, image.relative_to(root.resolve()).as_posix(), size, shapes)


def _shape(manifest: Manifest, path: Path, content: dict[str, Any]) -> Shape:
    kind, label = content.get("shape_type") or "polygon", str(content["label"])
    class_id = manifest.classes[column_of(label, columns_of(manifest), f"{path}", manifest)].id
    if kind not in _FEWEST_POINTS:
        raise DataError(f"{path}: a {kind!r} of {label!r} has no area; allowed: {', '.join(_FEWEST_POINTS)}")
    points = tuple((float(x), float(y)) for x, y in content["points"])
    if len(points) < _FEWEST_POINTS[kind] or not all(math.isfinite(v) for point in points for v in point):
        raise DataError(f"{path}: a {kind} of {label!r} has {len(points)} points, of which some may not be numbers")
    group = content.get("group_id")
    return Shape(kind, class_id, points, None if group is None else int(group))


def _area(shape: Shape, size: tuple[int, int]) -> BoolArray:
    """The pixels (H, W) of a shape, its outline included, as LabelMe itself draws them."""
    mask = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(mask)
    points = list(shape.points)
    if shape.kind == "polygon":
        draw.polygon(points, outline=1, fill=1)
    elif shape.kind == "rectangle":
        xs, ys = [x for x, _ in points], [y for _, y in points]
        draw.rectangle([min(xs), min(ys), max(xs), max(ys)], outline=1, fill=1)
    else:
        (x, y), edge = points[0], points[1]
        radius = math.dist((x, y), edge)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    return np.array(mask)
