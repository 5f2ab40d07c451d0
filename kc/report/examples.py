"""Qualitative examples on disk: an image, its truth, what each method said. They move with the run folder.

```
examples/classes.json                     ids, names, colours of the benchmark
examples/<name>/image.png                 RGB
examples/<name>/truth[-instance].png      16-bit maps: class ids with 65535 for void, and instance numbers
examples/<name>/truth.json                {"kind": ..., "label": id where classification}; written last
examples/<name>/predictions/<method>...   the same three files a method
```
Names are percent-encoded, so sample ids with slashes and methods with spaces come back as they were.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from colorsys import hsv_to_rgb
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kc.errors import DataError
from kc.files import file_name, name_of, write_atomic
from kc.label_png import from_pixels, to_pixels
from kc.types import VOID, ClassInfo, UInt8Array

Answer = int | npt.NDArray[np.integer[Any]]
"""A class id (classification), an (H, W) map of class ids, or an (H, W, 2) map of class ids and instance numbers."""


@dataclass(frozen=True)
class Example:
    """One example read back: `image` (H, W, 3) uint8 RGB, `truth` and each method's answer, the benchmark's classes."""

    name: str
    image: UInt8Array
    truth: Answer
    infos: tuple[ClassInfo, ...]
    predictions: dict[str, Answer] = field(default_factory=dict)


def save_example(folder: Path, name: str, image: UInt8Array, truth: Answer, class_infos: Sequence[ClassInfo]) -> None:
    """Store one example under `folder`, replacing one of the same name.

    `image` (H, W, 3) uint8 RGB; `truth` an `Answer` of the same height and width. Raises DataError for a map of
    another size or with values that do not fit 16 bits, RunError when the folder cannot be written.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f"example {name!r}: expected an (H, W, 3) uint8 image, got {image.shape} {image.dtype}")
    place = _place(folder, name)
    classes = json.dumps([asdict(info) for info in class_infos], ensure_ascii=False, indent=1)
    write_atomic(folder / "classes.json", classes.encode())
    write_atomic(place / "image.png", _png(image))
    _save_answer(place / "truth", truth, image.shape[:2])


def save_prediction(folder: Path, name: str, method: str, prediction: Answer) -> None:
    """Store what `method` said of the example `name`, which must be saved already (else DataError)."""
    place = _place(folder, name)
    if not (place / "truth.json").exists():
        raise DataError(f"no example {name!r} in {folder}: save it before its predictions")
    with Image.open(place / "image.png") as image:
        size = (image.height, image.width)
    _save_answer(place / "predictions" / file_name(method), prediction, size)


def load_examples(folder: Path) -> list[Example]:
    """All finished examples of a folder by name, predictions by method name; none if there is no such folder.

    Raises DataError naming the file that cannot be read.
    """
    places = sorted(p.parent for p in folder.glob("*/truth.json"))
    if not places:
        return []
    path = folder / "classes.json"
    try:
        infos = tuple(_info(entry) for entry in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: cannot be read as a list of classes ({error})") from error
    return [
        Example(
            name=name_of(place.name),
            image=_read(place / "image.png").astype(np.uint8),
            truth=_load_answer(place / "truth"),
            infos=infos,
            predictions={
                name_of(p.stem): _load_answer(p.with_suffix("")) for p in sorted(place.glob("predictions/*.json"))
            },
        )
        for place in places
    ]


def _info(entry: dict[str, Any]) -> ClassInfo:
    red, green, blue = entry["color"]  # goes into the style of a page
    if not all(type(c) is int and 0 <= c <= 255 for c in (red, green, blue)):
        raise ValueError(f"color {entry['color']!r}: expected three integers from 0 to 255")
    return ClassInfo(**{**entry, "synonyms": tuple(entry["synonyms"]), "color": (red, green, blue)})


def _place(folder: Path, name: str) -> Path:
    return folder / file_name(name)


def _png(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def _save_answer(stem: Path, answer: Answer, size: Sequence[int]) -> None:
    record: dict[str, object]
    if isinstance(answer, int | np.integer):
        record = {"kind": "classification", "label": int(answer)}
    else:
        if tuple(answer.shape[:2]) != tuple(size) or answer.shape[2:] not in ((), (2,)):
            raise DataError(f"{stem.name}: a map of shape {answer.shape} for an image of {tuple(size)}")
        layers = answer if answer.ndim == 3 else answer[..., None]
        for layer, low in zip(np.moveaxis(layers, -1, 0), (VOID, 0), strict=False):
            if layer.size and (layer.min() < low or layer.max() > 0xFFFF):
                raise DataError(f"{stem.name}: values {layer.min()} to {layer.max()} do not fit 16 bits")
        if answer.ndim == 3:
            write_atomic(stem.with_name(f"{stem.name}-instance.png"), _png(answer[..., 1].astype(np.uint16)))
        top = max(255, int(layers[..., 0].max(initial=0)))  # always 16 bits
        write_atomic(stem.with_name(f"{stem.name}.png"), _png(to_pixels(layers[..., 0], top)))
        record = {"kind": "semantic" if answer.ndim == 2 else "panoptic"}
    write_atomic(stem.with_name(f"{stem.name}.json"), json.dumps(record).encode())


def _load_answer(stem: Path) -> Answer:
    path = stem.with_name(f"{stem.name}.json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["kind"] == "classification":
            return int(record["label"])
        panoptic = record["kind"] == "panoptic"
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    classes = from_pixels(_read(stem.with_name(f"{stem.name}.png")))
    if not panoptic:
        return classes
    instances = _read(stem.with_name(f"{stem.name}-instance.png"))
    return np.stack([classes, instances], axis=-1).astype(np.int32)


def _read(path: Path) -> npt.NDArray[Any]:
    try:
        with Image.open(path) as image:
            return np.array(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def class_color(info: ClassInfo) -> tuple[int, int, int]:
    """The class's own colour; a class without one (black, not background) gets one from its id, always the same."""
    if info.background or any(info.color):
        return info.color
    # Steps of the golden angle around the hue circle: neighbours in id are far apart in hue.
    red, green, blue = hsv_to_rgb((info.id * 137.508) % 360 / 360, 0.75, (0.95, 0.75, 0.55)[info.id % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def render(image: UInt8Array, answer: npt.NDArray[np.integer[Any]], infos: Sequence[ClassInfo]) -> UInt8Array:
    """Classes painted over an image, (H, W, 3) uint8.

    Colours of the classes over the grey image, the background class left as the grey image; white borders between
    segments (panoptic: between instances too); void hatched grey. Raises DataError for a map of another size or with
    an id of no class.
    """
    if answer.shape[:2] != image.shape[:2]:
        raise DataError(f"a map of {answer.shape[:2]} over an image of {image.shape[:2]}")
    classes = answer[..., 0] if answer.ndim == 3 else answer
    table = {info.id: class_color(info) for info in infos}
    known = [*table, VOID]
    if strange := sorted(set(np.unique(classes).tolist()) - set(known)):
        raise DataError(f"the map has ids of no class: {strange}")
    palette = np.zeros((max(known) + 2, 3), dtype=np.float32)  # the last entry, black, is that of VOID (-1)
    for class_id, color in table.items():
        palette[class_id] = color
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    out = 0.62 * palette[classes] + 0.38 * grey[..., None]
    # A background is most of the picture and not an answer of its own: tinting it would only hide the image.
    background = np.isin(classes, [info.id for info in infos if info.background])
    out = np.where(background[..., None], 0.7 * grey[..., None], out)
    border = _borders(answer)
    out[border] = 0.15 * out[border] + 0.85 * 255
    rows, columns = np.indices(classes.shape)
    stripe = (rows + columns) % 8 < 3
    hatch = np.where(stripe, 150.0, 0.5 * grey + 100.0)[..., None]
    out = np.where((classes == VOID)[..., None], hatch, out)
    painted: UInt8Array = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    return painted


def _borders(answer: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """(H, W) bool: pixels whose right or lower neighbour belongs to another segment."""
    layers = answer if answer.ndim == 3 else answer[..., None]
    border = np.zeros(layers.shape[:2], dtype=np.bool_)
    border[:, :-1] |= (layers[:, :-1] != layers[:, 1:]).any(axis=-1)
    border[:-1] |= (layers[:-1] != layers[1:]).any(axis=-1)
    return border
