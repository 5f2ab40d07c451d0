"""Write the formats that other evaluators read: COCO panoptic (JSON + PNG) and COCO results.

https://cocodataset.org/#format-data and #format-results. Files are written to a temporary name and renamed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kc.files import write_atomic
from kc.types import VOID, BoolArray, ClassInfo, Float32Array, Int32Array, UInt8Array


def category_list(classes: Iterable[ClassInfo]) -> list[dict[str, Any]]:
    """The `categories` of a COCO panoptic JSON; the background is stuff like any other."""
    return [
        {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color), "supercategory": ""}
        for c in classes
    ]


def panoptic_annotation(
    panoptic: Int32Array, crowd: frozenset[int] = frozenset()
) -> tuple[UInt8Array, list[dict[str, Any]]]:
    """The id-PNG (H, W, 3) uint8 and the `segments_info` of a map (H, W, 2) of class id and instance number.

    Every pair of class and instance is one segment, numbered from 1 in rising order; pixels of class VOID are 0. With
    id = R + 256 G + 65536 B. `bbox` is x, y, width, height in pixels.
    """
    pair = panoptic[..., 0].astype(np.int64) << 32 | panoptic[..., 1].astype(np.int64)
    values, number = np.unique(pair, return_inverse=True)
    number = number.reshape(pair.shape)
    ids = np.zeros(len(values), dtype=np.int64)
    known = (values >> 32) != VOID
    ids[known] = np.arange(1, known.sum() + 1)
    image = ids[number]
    segments = []
    for position in np.flatnonzero(known):
        class_id, instance = int(values[position] >> 32), int(values[position] & 0xFFFFFFFF)
        rows, columns = np.nonzero(number == position)
        top, left = int(rows.min()), int(columns.min())
        segments.append(
            {
                "id": int(ids[position]),
                "category_id": class_id,
                "iscrowd": int(instance > 0 and instance in crowd),
                "area": len(rows),
                "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
            }
        )
    return np.stack([image % 256, image // 256 % 256, image // 65536], axis=-1).astype(np.uint8), segments


class PanopticWriter:
    """A COCO panoptic data set, or the predictions for one, image by image; `close` writes the JSON.

    Args:
        annotations: the JSON file.
        masks: folder of the id-PNGs.
        classes: all classes, whose ids are the category ids.
    """

    def __init__(self, annotations: Path, masks: Path, classes: Sequence[ClassInfo]) -> None:
        self.annotations, self.masks = annotations, masks
        self.categories = category_list(classes)
        self.images: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []

    def add(
        self, image_id: int | str, file_name: str, panoptic: Int32Array, crowd: frozenset[int] = frozenset()
    ) -> dict[str, Any]:
        """Write one map (H, W, 2) as PNG, named like its image, and return its annotation."""
        rgb, segments = panoptic_annotation(panoptic, crowd)
        height, width = panoptic.shape[:2]
        name = f"{Path(file_name).stem}.png"
        save_png(self.masks / name, rgb)
        self.images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        self.found.append({"image_id": image_id, "file_name": name, "segments_info": segments})
        return self.found[-1]

    def close(self) -> None:
        """Write the JSON."""
        content = {"images": self.images, "annotations": self.found, "categories": self.categories}
        write_json(self.annotations, content)


def instance_results(
    image_id: int | str, masks: BoolArray, class_id: Sequence[int], score: Float32Array
) -> list[dict[str, Any]]:
    """COCO results of one image: `masks` (N, H, W) bool as RLE, `class_id` (N,), `score` (N,) in [0, 1]."""
    from pycocotools import mask as coder

    results = []
    for mask, category, value in zip(masks, class_id, score, strict=True):
        rle = coder.encode(np.asfortranarray(mask.astype(np.uint8)))
        results.append(
            {
                "image_id": image_id,
                "category_id": int(category),
                "segmentation": {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")},
                "bbox": [float(v) for v in coder.toBbox(rle)],
                "score": float(value),
            }
        )
    return results


def save_png(path: Path, image: np.ndarray[Any, np.dtype[Any]]) -> None:
    """Write (H, W) uint8 or uint16, or (H, W, 3) uint8."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue(), sync=False)


def write_json(path: Path, content: Any) -> None:
    """Write plain values."""
    write_atomic(path, json.dumps(content, allow_nan=False).encode(), sync=False)
