"""A folder of pictures that show one thing, with where it is.

A picture `photo.jpg` may have beside it
- `photo.mask.png`, or `photo.jpg.mask.png`: of its size, every pixel that is not 0 is the thing (any mode; where the
  picture has an alpha channel that is not full everywhere, that channel);
- rows in `boxes.csv` of the folder: `image,x,y,width,height`, in pixels from the upper left corner, one box a row;
- entries in a COCO file `annotations.json`: `images` and `annotations` with `bbox` or `segmentation`; all count,
  whatever their category;
- `photo.json` of LabelMe: its polygons, rectangles and circles; all count, whatever their label.

A mask wins over boxes. A picture with neither shows the thing all over.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from kc.data.readers.drawn import coordinates, instance_mask, labelme_area, labelme_shape
from kc.data.readers.files import (
    IMAGE_SUFFIXES,
    check_same_size,
    decode_layers,
    left_out,
    list_files,
    read_turned,
    says_orientation,
    turned_with,
)
from kc.errors import DataError
from kc.outside import MOST_JSON, read_json
from kc.types import BoolArray, UInt8Array

BOXES = "boxes.csv"
COCO = "annotations.json"
_COLUMNS = ("image", "x", "y", "width", "height")


@dataclass(frozen=True)
class ExampleImage:
    """A picture (H, W, 3) uint8 RGB and the pixels (H, W) bool where the thing is; None: all over."""

    file: str
    image: UInt8Array
    mask: BoolArray | None = None


class Examples(Sequence[ExampleImage]):
    """The pictures in a folder, sorted by name, or one picture of it; each is read when it is asked for.

    Raises DataError, naming the file, for a folder without a picture and for tables of boxes or shapes that do not fit;
    on reading, for a picture or mask that does not.
    """

    def __init__(self, source: Path) -> None:
        one = source.is_file()
        folder = self.folder = source.absolute().parent if one else source
        found = [f.removeprefix("./") for f in list_files(folder, ".")]
        self.files = [f for f in found if not is_mask(f) and not is_answer(folder, f)]
        if not one and (lost := left_out(folder, ".")):
            raise DataError("; ".join(lost))
        if not one and not self.files:
            raise DataError(f"{folder}: no image in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
        self._masks = _masks(folder, self.files, [f for f in found if is_mask(f)])
        self._boxes, self._entries = _boxes(folder, self.files), _annotations(folder, self.files)
        if one:
            if is_mask(source.name):
                raise DataError(f"{source}: the mask of an image; give the image, its mask is found beside it")
            self.files = [source.name]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return [self._read(file) for file in self.files[item]]
        return self._read(self.files[item])

    def _read(self, file: str) -> ExampleImage:
        folder, (image, orientation) = self.folder, read_turned(self.folder, file)
        mask, drawn = self._masks.get(file), (folder / file).with_suffix(".json")
        has_shapes = drawn.is_file() and drawn.name != COCO
        area: BoolArray | None = None
        if mask is not None:
            area = _read_mask(folder, file, image, orientation, mask)
        elif file in self._boxes or file in self._entries or has_shapes:
            area = np.zeros(image.shape[:2], dtype=bool)
            for box in self._boxes.get(file, []):
                area |= box_mask(box, area.shape, f"{folder / BOXES}: {file}")
            for entry in self._entries.get(file, []):
                area |= _coco_area(entry, area.shape, folder / COCO)
            if has_shapes:
                area |= _labelme_area(drawn, area.shape)
        if area is not None and not area.any():
            raise DataError(f"{folder / file}: its mask is empty: give images that show the thing")
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


def is_mask(file: str) -> bool:
    """Whether a picture is the mask of another: NAME.mask.png, in any case and any format."""
    return PurePath(file).with_suffix("").name.lower().endswith(".mask")


def is_answer(folder: Path, file: str) -> bool:
    """Whether a picture was written by `kc predict`: NAME.png beside NAME.json, where NAME is that of a picture."""
    name = PurePath(file).with_suffix("")
    return name.suffix.lower() in IMAGE_SUFFIXES and (folder / f"{name}.json").is_file()


def _masks(folder: Path, files: list[str], masks: list[str]) -> dict[str, str]:
    """Picture -> its mask. Raises DataError for a mask of no picture or of two, and one whose format is not exact."""
    named: dict[str, list[str]] = {}
    for file in files:
        named.setdefault(file.lower(), []).append(file)
        named.setdefault(str(PurePath(file).with_suffix("")).lower(), []).append(file)
    found: dict[str, str] = {}
    for mask in masks:
        of = named.get(mask.lower().rpartition(".mask.")[0], [])
        if len(of) != 1 or of[0] in found:
            raise DataError(
                f"{folder / mask}: a mask of {' and '.join(of) or 'no picture beside it'}; expected one of one"
            )
        if mask.lower().endswith((".jpg", ".jpeg", ".jpe", ".jfif")):
            raise DataError(f"{folder / mask}: a mask saved as JPEG is not exact at its borders; save it as PNG")
        found[of[0]] = mask
    return found


def _read_mask(folder: Path, file: str, image: UInt8Array, orientation: int, mask: str) -> BoolArray:
    path = str(folder / mask)
    values = decode_layers(path)
    if values.ndim == 3:
        alpha = values.shape[2] in (2, 4) and not (values[..., -1] == 255).all()
        layers = values[..., :-1] if values.shape[2] in (2, 4) else values
        values = values[..., -1] if alpha else layers.max(axis=2)
    if orientation != 1 and not says_orientation(path):
        values = turned_with(str(folder / file), image, orientation, path, values)
    check_same_size(str(folder / file), image, path, values)
    area: BoolArray = values > 0
    return area


def _boxes(folder: Path, files: list[str]) -> dict[str, list[tuple[float, float, float, float]]]:
    path = folder / BOXES
    if not path.is_file():
        return {}
    known, found = set(files), dict[str, list[tuple[float, float, float, float]]]()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            if set(_COLUMNS) - set(rows.fieldnames or ()):
                raise DataError(f"{path}: its first line must name the columns {','.join(_COLUMNS)}")
            for row in rows:
                cells = [(row[name] or "").strip() for name in _COLUMNS]
                where = f"{path}, line {rows.line_num}"
                if not any(cells):
                    continue
                name = PurePath(cells[0]).as_posix()
                if name not in known:
                    raise DataError(f"{where}: there is no picture {cells[0]!r} beside it")
                try:
                    if None in row:
                        raise ValueError("more cells than columns")
                    x, y, width, height = (float(cell) for cell in cells[1:])
                except ValueError as error:
                    raise DataError(f"{where}: expected {','.join(_COLUMNS)}; {error}") from error
                coordinates([x, y, width, height], 2, where)
                found.setdefault(name, []).append((x, y, width, height))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a table of boxes ({error})") from error
    return found


def _annotations(folder: Path, files: list[str]) -> dict[str, list[dict[str, Any]]]:
    path = folder / COCO
    if not path.is_file():
        return {}
    try:
        content = read_json(path, most=MOST_JSON)
        names = {image["id"]: PurePath(str(image["file_name"])).as_posix() for image in content["images"]}
        found: dict[str, list[dict[str, Any]]] = {}
        for entry in content["annotations"]:
            found.setdefault(names[entry["image_id"]], []).append(entry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a COCO file ({type(error).__name__}: {error})") from error
    missing = sorted(set(found) - set(files))
    if missing:
        raise DataError(f"{path}: there is no picture {missing[0]!r} beside it")
    return found


def _coco_area(entry: dict[str, Any], size: tuple[int, ...], path: Path) -> BoolArray:
    where = f"{path}: annotation {entry.get('id')}"
    shape = entry.get("segmentation")
    if shape:
        return instance_mask(shape, (size[0], size[1]), where)
    if entry.get("bbox") is None:
        raise DataError(f"{where} has neither segmentation nor bbox")
    if len(corners := coordinates(entry["bbox"], 2, where).ravel().tolist()) != 4:
        raise DataError(f"{where}: a bbox of {len(corners)} numbers; expected x, y, width, height")
    x, y, width, height = corners
    return box_mask((x, y, width, height), size, where)


def _labelme_area(path: Path, size: tuple[int, ...]) -> BoolArray:
    """The pixels (H, W) of all shapes of a LabelMe file, their outlines included, as LabelMe draws them."""
    height, width = size[:2]
    area = np.zeros((height, width), dtype=bool)
    content = read_json(path, most=MOST_JSON)
    try:
        if (int(content["imageHeight"]), int(content["imageWidth"])) != (height, width):
            raise ValueError(f"its picture is said to be {content['imageWidth']}x{content['imageHeight']}")
        for number, shape in enumerate(content["shapes"]):
            area |= labelme_area(*labelme_shape(shape, f"{path}: shape {number}"), (height, width))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: not a LabelMe file of its picture ({type(error).__name__}: {error})") from error
    return area
