"""Mask AP by hand, and as pycocotools scores the same instances from files of its own format."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kc.metrics.instances import InstancePrecision
from kc.types import VOID, Instances, Int32Array


def row(*labels: tuple[int, int]) -> Int32Array:
    """A map of one row: class and instance number of each pixel."""
    return np.array([labels], dtype=np.int32)


def found(*instances: tuple[str, int, float]) -> Instances:
    """Instances of one row: "110" marks its first two pixels."""
    masks = np.array([[[x == "1" for x in text]] for text, _, _ in instances], dtype=bool)
    return Instances(
        masks, np.array([c for _, c, _ in instances]), np.array([s for _, _, s in instances], dtype=np.float32)
    )


def scored(target: Int32Array, instances: Instances, crowd: frozenset[int] = frozenset()) -> dict[str, float]:
    metric = InstancePrecision([7, 3])
    metric.update(target, instances, crowd)
    return metric.compute()


TWO = row((7, 1), (7, 1), (7, 2), (7, 2), (0, 0), (0, 0))


def test_all_found_is_one_and_nothing_true_is_undefined() -> None:
    result = scored(TWO, found(("110000", 7, 0.9), ("001100", 7, 0.2)))
    assert (result["ap"], result["ap_50"], result["ap_75"]) == pytest.approx((1, 1, 1))
    assert result["per_class"][7] == pytest.approx(1)
    assert math.isnan(result["per_class"][3])
    none = scored(row((0, 0), (0, 0)), found(("11", 7, 0.9)))
    assert all(math.isnan(none[k]) for k in ("ap", "ap_50", "ap_75"))
    assert math.isnan(InstancePrecision([]).compute()["ap"])


def test_order_of_scores_decides() -> None:
    """One of two is found, after a false one: precision 1/2 up to recall 1/2, that is at 51 of 101 recalls."""
    late = scored(TWO, found(("000011", 7, 0.9), ("110000", 7, 0.5)))
    assert late["ap"] == pytest.approx(51 / 101 / 2)
    early = scored(TWO, found(("000011", 7, 0.4), ("110000", 7, 0.5)))
    assert early["ap"] == pytest.approx(51 / 101)


def test_a_mask_of_iou_three_fifths_counts_at_three_of_ten_thresholds() -> None:
    target = row(*[(7, 1)] * 4, (0, 0))
    result = scored(target, found(("11101", 7, 0.9)))  # 3 of 5; pycocotools counts equality at 0.60
    assert result["ap_50"] == pytest.approx(1)
    assert result["ap_75"] == 0
    assert result["ap"] == pytest.approx(0.3)


def test_two_answers_for_one_object_and_the_wrong_class() -> None:
    result = scored(TWO, found(("110000", 7, 0.9), ("110000", 7, 0.8), ("001100", 3, 0.7)))
    assert result["ap"] == pytest.approx(51 / 101)


def test_crowds_and_void_count_neither_way() -> None:
    """Both would be false and first in order; on a crowd of their class, and on void, they are not looked at."""
    target = row((7, 1), (7, 1), (7, 2), (7, 2), (VOID, 0), (VOID, 0))
    instances = found(("001100", 7, 0.9), ("000011", 7, 0.8), ("110000", 7, 0.5))
    assert scored(target, instances, frozenset({2}))["ap"] == pytest.approx(1)
    target[0, 4:, 0] = 0
    assert scored(target, instances, frozenset({2}))["ap"] == pytest.approx(0.5)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="expected instances of size"):
        scored(TWO, found(("11", 7, 0.9)))


def test_as_pycocotools_from_files(tmp_path: Path) -> None:
    """Random scenes written as COCO's own JSON, scored by COCOeval with all its defaults."""
    rng = np.random.default_rng(0)
    metric = InstancePrecision([7, 3])
    annotations, results = [], []
    for image in range(6):
        target = np.zeros((40, 40, 2), dtype=np.int32)
        masks, classes = [], []
        for number in range(1, 5):
            y, x = rng.integers(0, 30, 2)
            target[y : y + 10, x : x + 10] = (rng.choice([3, 7]), number)
        for number in range(1, 5):
            own = target[..., 1] == number
            if own.any():
                class_id = int(target[own][0, 0])
                code = rle.encode(np.asfortranarray(own.astype(np.uint8)))
                text = {**code, "counts": code["counts"].decode()}
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image, "category_id": class_id, "segmentation": text,
                     "area": int(own.sum()), "iscrowd": 0, "bbox": rle.toBbox(code).tolist()}
                )  # fmt: skip
                shifted = np.roll(own, int(rng.integers(0, 4)), axis=1)
                masks.append(shifted)
                classes.append(class_id if rng.random() < 0.8 else 10 - class_id)
        scores = np.sort(rng.random(len(masks)).astype(np.float32))[::-1].copy()
        metric.update(target, Instances(np.stack(masks), np.array(classes), scores))
        for mask, class_id, score in zip(masks, classes, scores, strict=True):
            code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            text = {**code, "counts": code["counts"].decode()}
            results.append({"image_id": image, "category_id": class_id, "segmentation": text, "score": float(score)})
    content = {
        "info": {},
        "images": [{"id": i, "width": 40, "height": 40} for i in range(6)],
        "categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}],
        "annotations": annotations,
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(results))
    truth = COCO(tmp_path / "truth.json")
    scorer = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "segm")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    result = metric.compute()
    assert 0.1 < scorer.stats[0] < 0.9
    assert [result["ap"], result["ap_50"], result["ap_75"]] == pytest.approx(scorer.stats[:3].tolist())
