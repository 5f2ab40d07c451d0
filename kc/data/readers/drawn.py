"""Shapes that are drawn into masks: polygons, circles and run lengths, each checked before it is drawn.

pycocotools and Pillow believe what they are given: NaN and coordinates of 1e9 end the process, and run lengths that
end too early leave memory that nobody wrote.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from kc.errors import DataError
from kc.types import VOID, BoolArray, Int32Array, Int64Array

FEWEST_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2}
"""The shapes of LabelMe that have an area."""

FARTHEST = 100_000
"""The largest coordinate in pixels: shapes may reach beyond the image, whose part alone is drawn."""
_LONGEST = 5_000_000
"""Pixels of the longest outline: drawing takes some 40 bytes each."""

Size = tuple[int, int]


class Marked(NamedTuple):
    """One instance of COCO. `name`: what errors call it beside its image."""

    class_id: int
    segmentation: Any
    crowd: bool
    name: str


def coordinates(numbers: Any, fewest: int, where: str) -> npt.NDArray[np.float64]:
    """Points (n, 2) in pixels from numbers x, y, x, y ... or pairs of them.

    Raises:
        DataError: they are no pairs of finite numbers, fewer than `fewest`, too large, or shares of the image.
    """
    try:
        values = np.asarray(numbers)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where}: its points are no numbers ({error})") from error
    pairs = values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 2)
    if not pairs or values.size % 2 or (values.size and values.dtype.kind not in "iuf"):
        raise DataError(f"{where}: {str(numbers)[:80]!r}; expected x and y of each point, all of them numbers")
    if values.size < 2 * fewest:
        raise DataError(f"{where}: {values.size // 2} points have no area; expected at least {fewest}")
    points: npt.NDArray[np.float64] = values.astype(np.float64).reshape(-1, 2)
    if not np.isfinite(points).all() or np.abs(points).max() > FARTHEST:
        raise DataError(f"{where}: a coordinate is no number or beyond {FARTHEST:,} pixels")
    if np.abs(points).max() <= 1:
        raise DataError(f"{where}: all coordinates are 1 or less, so they seem to be shares of the image; give pixels")
    if np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum() > _LONGEST:
        raise DataError(f"{where}: its outline is longer than {_LONGEST:,} pixels")
    return points


def instance_mask(segmentation: Any, size: Size, where: str) -> BoolArray:
    """(H, W) bool of a COCO segmentation: polygons, or run lengths, compressed or not.

    Raises:
        DataError: it is neither, a polygon has no area or wild coordinates, or run lengths do not fill the mask.
    """
    if isinstance(segmentation, dict):
        return _of_runs(segmentation, size, where)
    if not isinstance(segmentation, list) or not segmentation:
        raise DataError(f"{where}: segmentation {str(segmentation)[:80]}; expected polygons or run lengths")
    if not all(isinstance(part, list) for part in segmentation):
        raise DataError(f"{where}: a flat list of numbers; expected a list of polygons, [[x, y, x, y ...], ...]")
    from pycocotools import mask as coder

    polygons = [coordinates(part, 3, where).ravel().tolist() for part in segmentation]
    mask: BoolArray = coder.decode(coder.merge(coder.frPyObjects(polygons, *size))).astype(np.bool_)
    return mask


def _of_runs(segmentation: dict[Any, Any], size: Size, where: str) -> BoolArray:
    counts = segmentation.get("counts")
    if list(segmentation.get("size") or ()) != list(size):
        raise DataError(f"{where}: run lengths of size {segmentation.get('size')}; the image is {list(size)} (H, W)")
    try:
        if isinstance(counts, str | bytes):
            runs = _uncompressed(counts.encode("ascii") if isinstance(counts, str) else counts)
        else:
            runs = np.asarray(counts)
            if runs.ndim != 1 or runs.dtype.kind not in "iu":
                raise ValueError("expected whole numbers")
        total = sum(runs.tolist())
        if runs.min(initial=0) < 0 or total != size[0] * size[1]:
            raise ValueError(f"they cover {total} pixels, and the image has {size[0] * size[1]}")
    except (ValueError, OverflowError, TypeError) as error:
        raise DataError(f"{where}: run lengths that do not fill the mask ({error})") from error
    mask: BoolArray = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T
    return mask


def _uncompressed(text: bytes) -> Int64Array:
    """COCO's compressed run lengths: five bits a character, and from the fourth number on what it adds to the last
    but one (rleFrString of the COCO API). Raises ValueError."""
    values = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    last = (values & 32) == 0
    if not len(values) or values.min() < 0 or values.max() > 63 or not last[-1]:
        raise ValueError("not written by the COCO API")
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    lengths = np.diff(starts, append=len(values))
    if lengths.max() > 7:
        raise ValueError("a number is too large")
    place = np.arange(len(values)) - np.repeat(starts, lengths)
    runs: Int64Array = np.add.reduceat((values & 31) << (5 * place), starts)
    negative = (values[last] & 16) != 0
    runs -= np.where(negative, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


def painted(instances: Sequence[Marked], size: Size, where: str) -> tuple[Int32Array, frozenset[int]]:
    """The map (H, W, 2) of instances, numbered from 1 in their order, and which of them are crowds; the rest is VOID.

    Painted large to small, so that what lies in front, which is smaller as a rule, stays whole. Raises DataError as
    `instance_mask`, naming the instance.
    """
    masks = [instance_mask(one.segmentation, size, f"{where}, {one.name}") for one in instances]
    pixels = [np.flatnonzero(mask).astype(np.int32) for mask in masks]
    panoptic = np.zeros((*size, 2), dtype=np.int32)
    panoptic[..., 0] = VOID
    flat = panoptic.reshape(-1, 2)
    for i in sorted(range(len(pixels)), key=lambda i: -len(pixels[i])):
        flat[pixels[i]] = (instances[i].class_id, i + 1)
    return panoptic, frozenset(i + 1 for i, one in enumerate(instances) if one.crowd)


def labelme_shape(content: dict[str, Any], where: str) -> tuple[str, npt.NDArray[np.float64]]:
    """Kind and points (n, 2) of a shape. Raises DataError where it has no area."""
    kind = content.get("shape_type") or "polygon"
    if kind not in FEWEST_POINTS:
        raise DataError(f"{where}: a {kind!r:.80} has no area; allowed: {', '.join(FEWEST_POINTS)}")
    return kind, coordinates(content.get("points"), FEWEST_POINTS[kind], f"{where}: a {kind}")


def labelme_area(kind: str, points: npt.NDArray[np.float64], size: Size) -> BoolArray:
    """The pixels (H, W) of a shape, its outline included, as LabelMe itself draws them."""
    mask = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(mask)
    if kind == "polygon":
        draw.polygon([(x, y) for x, y in points.tolist()], outline=1, fill=1)
    elif kind == "rectangle":
        draw.rectangle([*points.min(axis=0).tolist(), *points.max(axis=0).tolist()], outline=1, fill=1)
    else:
        (x, y), edge = points[:2].tolist()
        radius = math.dist((x, y), edge)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    return np.array(mask)
