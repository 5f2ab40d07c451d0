"""A folder of pictures that show one thing, with where it is.

A picture `photo.jpg` may have beside it
- `photo.mask.png`: of its size, every pixel that is not 0 is the thing (any mode; of RGBA pictures the last channel);
- rows in `boxes.csv` of the folder: `image,x,y,width,height`, in pixels from the upper left corner, one box a row;
- entries in a COCO file `annotations.json`: `images` and `annotations` with `bbox` or `segmentation`; all count,
  whatever their category;
- `photo.json` of LabelMe: its polygons, rectangles and circles; all count, whatever their label.

A mask wins over boxes. A picture with neither shows the thing all over.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from kc.data.readers.files import IMAGE_SUFFIXES, check_same_size, list_files, read_image
from kc.errors import DataError
from kc.types import BoolArray, UInt8Array

MASK = ".mask.png"
BOXES = "boxes.csv"
COCO = "annotations.json"
_COLUMNS = ("image", "x", "y", "width", "height")


@dataclass(frozen=True)
class ExampleImage:
    """A picture (H, W, 3) uint8 RGB and the pixels (H, W) bool where the thing is; None: all over."""

    file: str
    image: UInt8Array
    mask: BoolArray | None = None


_FEWEST_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2}


class Examples(Sequence[ExampleImage]):
    """The pictures in `folder`, sorted by name; each is read when it is asked for.

    Raises DataError, naming the file, for a folder without a picture and for tables of boxes or shapes that do not fit;
    on reading, for a picture or mask that does not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = [f.removeprefix("./") for f in list_files(folder, ".") if not f.endswith(MASK)]
        if not self.files:
            raise DataError(f"{folder}: no picture in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
        self._boxes, self._entries = _boxes(folder, self.files), _annotations(folder, self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return [self._read(file) for file in self.files[item]]
        return self._read(self.files[item])

    def _read(self, file: str) -> ExampleImage:
        folder, image = self.folder, read_image(self.folder, file)
        mask, drawn = _mask_file(folder, file), (folder / file).with_suffix(".json")
        has_shapes = drawn.is_file() and drawn.name != COCO
        area: BoolArray | None = None
        if mask is not None:
            area = _read_mask(folder, file, image, mask)
        elif file in self._boxes or file in self._entries or has_shapes:
            area = np.zeros(image.shape[:2], dtype=bool)
            for box in self._boxes.get(file, []):
                area |= box_mask(box, area.shape, f"{folder / BOXES}: {file}")
            for entry in self._entries.get(file, []):
                area |= _coco_area(entry, area.shape, folder / COCO)
            if has_shapes:
                area |= _labelme_area(drawn, area.shape)
        if area is not None and not area.any():
            raise DataError(f"{folder / file}: its mask is empty; a picture that does not show the thing teaches none")
        return ExampleImage(file, image, area)


def box_mask(box: tuple[float, float, float, float], size: tuple[int, ...], where: str) -> BoolArray:
    """The pixels (H, W) whose centre lies in `box` (x, y, width, height). DataError where none of the image does."""
    x, y, width, height = box
    rows, columns = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    inside: BoolArray = ((rows >= y) & (rows < y + height))[:, None] & ((columns >= x) & (columns < x + width))
    if not (width > 0 and height > 0 and inside.any()):
        raise DataError(
            f"{where}: the box {x:g},{y:g},{width:g},{height:g} is not in the picture of {size[1]}x{size[0]}"
        )
    return inside


def _mask_file(folder: Path, file: str) -> Path | None:
    path = folder / (str(Path(file).with_suffix("")) + MASK)
    return path if path.is_file() else None


def _read_mask(folder: Path, file: str, image: UInt8Array, path: Path) -> BoolArray:
    try:
        with Image.open(path) as opened:
            values = np.array(opened.convert("RGBA") if opened.mode in ("RGBA", "PA", "LA") else opened)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: cannot read the mask ({error})") from error
    if values.ndim == 3:
        values = values[..., 3] if values.shape[2] == 4 else values.max(axis=2)
    check_same_size(str(folder / file), image, str(path), values)
    area: BoolArray = values > 0
    return area


def _boxes(folder: Path, files: list[str]) -> dict[str, list[tuple[float, float, float, float]]]:
    path = folder / BOXES
    if not path.is_file():
        return {}
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            if set(_COLUMNS) - set(rows.fieldnames or ()):
                raise DataError(f"{path}: its first line must name the columns {','.join(_COLUMNS)}")
            for number, row in enumerate(rows, start=2):
                if row["image"] not in files:
                    raise DataError(f"{path}, line {number}: there is no picture {row['image']!r} beside it")
                x, y, width, height = (float(row[name]) for name in _COLUMNS[1:])
                found.setdefault(row["image"], []).append((x, y, width, height))
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: not a table of boxes ({error})") from error
    return found


def _annotations(folder: Path, files: list[str]) -> dict[str, list[dict[str, Any]]]:
    path = folder / COCO
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        found: dict[str, list[dict[str, Any]]] = {}
        for entry in content["annotations"]:
            found.setdefault(names[entry["image_id"]], []).append(entry)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a COCO file ({type(error).__name__}: {error})") from error
    missing = sorted(set(found) - set(files))
    if missing:
        raise DataError(f"{path}: there is no picture {missing[0]!r} beside it")
    return found


def _coco_area(entry: dict[str, Any], size: tuple[int, ...], path: Path) -> BoolArray:
    try:
        shape = entry.get("segmentation")
        if not shape:
            x, y, width, height = (float(v) for v in entry["bbox"])
            return box_mask((x, y, width, height), size, str(path))
        if isinstance(shape, list):
            code = coco.merge(coco.frPyObjects(shape, size[0], size[1]))
        else:
            code = coco.frPyObjects(shape, size[0], size[1]) if isinstance(shape["counts"], list) else shape
        area: BoolArray = coco.decode(code).astype(bool)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: annotation {entry.get('id')}: {error}") from error
    if area.shape != tuple(size):
        raise DataError(f"{path}: annotation {entry.get('id')} has a mask of another size than its picture")
    return area


def _labelme_area(path: Path, size: tuple[int, ...]) -> BoolArray:
    """The pixels (H, W) of all shapes of a LabelMe file, their outlines included, as LabelMe draws them."""
    mask = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(mask)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (int(content["imageHeight"]), int(content["imageWidth"])) != tuple(size):
            raise ValueError(f"its picture is said to be {content['imageWidth']}x{content['imageHeight']}")
        for shape in content["shapes"]:
            kind, points = shape.get("shape_type") or "polygon", [(float(x), float(y)) for x, y in shape["points"]]
            if len(points) < _FEWEST_POINTS.get(kind, len(points) + 1) or not np.isfinite(points).all():
                raise ValueError(f"a {kind} of {len(points)} points has no area")
            xs, ys = [x for x, _ in points], [y for _, y in points]
            if kind == "polygon":
                draw.polygon(points, outline=1, fill=1)
            elif kind == "rectangle":
                draw.rectangle([min(xs), min(ys), max(xs), max(ys)], outline=1, fill=1)
            else:
                radius = math.dist(*points[:2])
                draw.ellipse([xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius], outline=1, fill=1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a LabelMe file of its picture ({type(error).__name__}: {error})") from error
    return np.array(mask)
