"""Average precision of scored instance masks, as COCO defines it (Lin et al. 2014, arXiv 1405.0312)."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kc.metrics.confusion import FloatArray
from kc.types import VOID, BoolArray, Instances, Int32Array

BEST = 100
"""Instances of an image that count, best first."""


class InstancePrecision:
    """Mask AP over a stream of images, by pycocotools.

    True instances are the thing segments of panoptic maps. As in panoptic quality, void pixels are no evidence: they
    are a crowd of every class, so that an instance which lies on void counts neither way. Without void it is COCO's AP.

    Args:
        thing_ids: countable classes of the vocabulary; only they are scored.
    """

    def __init__(self, thing_ids: Iterable[int]) -> None:
        self.thing_ids = tuple(thing_ids)
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._images: list[dict[str, int]] = []

    def update(self, target: Int32Array, found: Instances, crowd: Iterable[int] = ()) -> None:
        """Add one image: its true (H, W, 2) map, scored instances at its size, the true numbers that are crowds.

        Raises ValueError where sizes differ.
        """
        if target.shape[:2] != found.masks.shape[1:]:
            raise ValueError(f"expected instances of size {target.shape[:2]}, got {found.masks.shape[1:]}")
        image, crowds = len(self._images), set(crowd)
        self._images.append({"id": image, "height": target.shape[0], "width": target.shape[1]})
        things = np.isin(target[..., 0], self.thing_ids)
        for class_id, number in np.unique(target[things], axis=0).tolist():
            self._add(image, class_id, (target == (class_id, number)).all(-1), number in crowds)
        void = target[..., 0] == VOID
        if void.any():
            for class_id in self.thing_ids:
                self._add(image, class_id, void, True)
        keep = np.isin(found.class_ids, self.thing_ids)
        for code, class_id, score in zip(
            encoded(found.masks[keep]), found.class_ids[keep].tolist(), found.scores[keep].tolist(), strict=True
        ):
            self._found.append({"image_id": image, "category_id": class_id, "segmentation": code, "score": score})

    def _add(self, image: int, class_id: int, mask: BoolArray, crowd: bool) -> None:
        self._truth.append({
            "id": len(self._truth) + 1,  # pycocotools reads 0 as "no match"
            "image_id": image, "category_id": class_id, "segmentation": encoded(mask[None])[0],
            "area": int(mask.sum()), "iscrowd": int(crowd),
        })  # fmt: skip

    def compute(self) -> dict[str, Any]:
        """`ap` (mean over IoU 0.50, 0.55 .. 0.95), `ap_50`, `ap_75`: means over the classes that have a true instance;
        `per_class`: class id -> its AP. All in [0, 1]; NaN where there is no true instance.
        """
        precision = self._precision()
        defined: BoolArray = np.asarray((precision >= 0).any(axis=(0, 1)), dtype=np.bool_)
        per_class = {
            c: float(precision[:, :, k].mean()) if defined[k] else math.nan for k, c in enumerate(self.thing_ids)
        }
        held = precision[:, :, defined]
        parts: Mapping[str, FloatArray] = {"ap": held, "ap_50": held[:1], "ap_75": held[5:6]}
        means = {name: float(part.mean()) if part.size else math.nan for name, part in parts.items()}
        return {**means, "per_class": per_class}

    def _precision(self) -> FloatArray:
        """(10 IoUs, 101 recalls, classes): the precision at each recall; -1 without a true instance."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        if not self._truth or not self.thing_ids:
            return np.full((10, 101, len(self.thing_ids)), -1.0)
        truth: Any = COCO()
        categories = [{"id": c} for c in self.thing_ids]
        truth.dataset = {"images": self._images, "categories": categories, "annotations": self._truth}
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
            truth.createIndex()
            found: Any = COCO()
            annotations = [{**x, "id": i + 1, "iscrowd": 0, "area": 0} for i, x in enumerate(self._found)]
            found.dataset = {**truth.dataset, "annotations": annotations}
            found.createIndex()
            scorer = COCOeval(truth, found, "segm")
            scorer.params.catIds = list(self.thing_ids)
            scorer.params.areaRng, scorer.params.areaRngLbl = [[0, 1e10]], ["all"]
            scorer.params.maxDets = [BEST]
            scorer.evaluate()
            scorer.accumulate()
        # COCOeval sorts the classes.
        order = [sorted(self.thing_ids).index(c) for c in self.thing_ids]
        return np.asarray(scorer.eval["precision"][:, :, order, 0, 0], dtype=np.float64)


def encoded(masks: BoolArray) -> Sequence[dict[str, Any]]:
    """Run lengths of masks (n, H, W)."""
    from pycocotools import mask as rle

    return list(rle.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))) if len(masks) else []
