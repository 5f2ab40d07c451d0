"""Instances of COCO, polygons or run lengths, painted into one panoptic map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kc.types import VOID, BoolArray, Int32Array

Marked = tuple[int, Any, bool]
"""Class id, `segmentation` of COCO, whether it is a crowd."""


def instance_mask(segmentation: Any, height: int, width: int) -> BoolArray:
    """(H, W) bool of a COCO segmentation: polygons, or run lengths, compressed or not."""
    from pycocotools import mask as coder

    if isinstance(segmentation, list):
        rle = coder.merge(coder.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coder.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    mask: BoolArray = coder.decode(rle).astype(np.bool_)
    return mask


def painted(instances: Sequence[Marked], height: int, width: int) -> tuple[Int32Array, frozenset[int]]:
    """The map (H, W, 2) of instances, numbered from 1 in their order, and which of them are crowds; the rest is VOID.

    Painted large to small, so that what lies in front, which is smaller as a rule, stays whole.
    """
    masks = [instance_mask(segmentation, height, width) for _, segmentation, _ in instances]
    panoptic = np.stack([np.full((height, width), VOID), np.zeros((height, width))], axis=-1).astype(np.int32)
    for i in sorted(range(len(masks)), key=lambda i: -int(masks[i].sum())):
        panoptic[masks[i]] = (instances[i][0], i + 1)
    return panoptic, frozenset(i + 1 for i, (_, _, crowd) in enumerate(instances) if crowd)
