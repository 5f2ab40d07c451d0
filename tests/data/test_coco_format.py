from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools import mask as coder

from kc.data.coco_format import PanopticWriter, instance_results, panoptic_annotation
from kc.data.manifest import Manifest
from kc.data.readers.coco import CocoPanopticReader
from kc.types import VOID


def test_segments_by_hand() -> None:
    panoptic = np.zeros((2, 3, 2), dtype=np.int32)
    panoptic[..., 0] = [[7, 7, 3], [VOID, 3, 3]]
    panoptic[..., 1] = [[1, 2, 0], [0, 0, 0]]
    rgb, segments = panoptic_annotation(panoptic, frozenset({2}))
    # Rising order of (class, instance): stuff 3 is segment 1, the two things of class 7 are 2 and 3; void is 0.
    assert rgb[..., 0].tolist() == [[2, 3, 1], [0, 1, 1]]
    assert not rgb[..., 1:].any()
    assert segments == [
        {"id": 1, "category_id": 3, "iscrowd": 0, "area": 3, "bbox": [1, 0, 2, 2]},
        {"id": 2, "category_id": 7, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]},
        {"id": 3, "category_id": 7, "iscrowd": 1, "area": 1, "bbox": [1, 0, 1, 1]},
    ]


def test_more_than_256_segments_use_the_second_channel() -> None:
    panoptic = np.zeros((20, 30, 2), dtype=np.int32)
    panoptic[..., 1] = np.arange(1, 601).reshape(20, 30)
    rgb, segments = panoptic_annotation(panoptic)
    ids = rgb.astype(np.int64) @ np.array([1, 256, 65536])
    assert len(segments) == 600
    assert ids.ravel().tolist() == list(range(1, 601))


def test_what_is_written_reads_back(tiny_coco: SimpleNamespace, tmp_path: Path) -> None:
    """Our own reader, which reads the official format, sees the same maps and crowds."""
    manifest: Manifest = tiny_coco.manifest
    reader = CocoPanopticReader.open(manifest, "train", tiny_coco.root / "tiny-coco")
    out = tmp_path / "out" / "tiny-coco"
    writer = PanopticWriter(out / "annotations/train.json", out / "annotations/train", manifest.info)
    samples = [reader.read(i) for i in range(len(reader))]
    for item, sample in zip(reader.items, samples, strict=True):
        assert sample.panoptic is not None
        writer.add(Path(item.image).stem, Path(item.image).name, sample.panoptic, sample.crowd)
    writer.close()
    shutil.copytree(tiny_coco.folder / "images", out / "images")
    again = CocoPanopticReader.open(manifest, "train", out)
    for i, sample in enumerate(samples):
        panoptic, crowd = again.panoptic(i)
        assert sample.panoptic is not None
        assert np.array_equal(panoptic[..., 0], sample.panoptic[..., 0])
        assert len(crowd) == len(sample.crowd)
        # Instances may be numbered otherwise, but they are the same regions.
        pairs = np.unique(np.stack([panoptic[..., 1], sample.panoptic[..., 1]], -1).reshape(-1, 2), axis=0)
        assert len(pairs) == len(np.unique(sample.panoptic[..., 1]))


def test_instances_are_run_lengths() -> None:
    masks = np.zeros((2, 4, 5), dtype=np.bool_)
    masks[0, 1:3, 2:5] = masks[1, 0, 0] = True
    results = json.loads(json.dumps(instance_results("a", masks, [4, 9], np.array([0.5, 0.25], dtype=np.float32))))
    assert [r["category_id"] for r in results] == [4, 9]
    assert [r["score"] for r in results] == [0.5, 0.25]
    assert results[0]["bbox"] == [2.0, 1.0, 3.0, 2.0]
    assert np.array_equal(coder.decode(results[0]["segmentation"]), masks[0])


def test_a_mask_without_a_pixel_has_an_empty_box() -> None:
    results = instance_results(1, np.zeros((1, 3, 3), dtype=np.bool_), [0], np.array([1.0], dtype=np.float32))
    assert results[0]["bbox"] == pytest.approx([0, 0, 0, 0])
