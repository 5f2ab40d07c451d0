"""detectron2's catalogs both ways, and its evaluators beside our metrics. Run where detectron2 was built."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kc.data.datamodule import IncrementalDataModule
from kc.data.detectron2 import register
from kc.data.readers.open import open_reader
from kc.errors import DataError, MissingExtraError
from kc.metrics.confusion import ConfusionMatrix
from kc.metrics.panoptic import PanopticQuality
from kc.types import VOID

HAVE = importlib.util.find_spec("detectron2") is not None
needs_detectron2 = pytest.mark.skipif(not HAVE, reason="detectron2 is not installed; docs/detectron2.md says how")
prefixes = (f"kc_test_{i}_" for i in itertools.count())


@pytest.fixture
def prefix() -> Iterator[str]:
    """A prefix of its own for each test, and nothing left in the catalogs."""
    chosen = next(prefixes)
    yield chosen
    if HAVE:
        from detectron2.data import DatasetCatalog, MetadataCatalog

        for name in [n for n in DatasetCatalog.list() if n.startswith(chosen)]:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.mark.skipif(HAVE, reason="detectron2 is installed")
def test_without_detectron2_one_error_says_what_to_build() -> None:
    with pytest.raises(MissingExtraError, match="build it from its source"):
        register("digit-scenes")
    with pytest.raises(MissingExtraError, match="build it from its source"):
        IncrementalDataModule.from_detectron2("coco_2017_train_panoptic")


@needs_detectron2
def test_semantic_there_and_back(tiny_index_png: SimpleNamespace, prefix: str) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    names = register(tiny_index_png.manifest, tiny_index_png.root, prefix)
    dicts = DatasetCatalog.get(names["train"])
    assert len(dicts) == 6
    assert (dicts[0]["height"], dicts[0]["width"]) == (24, 32)
    assert Path(dicts[0]["file_name"]).is_relative_to(tiny_index_png.root)
    assert MetadataCatalog.get(names["train"]).stuff_classes == ["sky", "car", "tree", "road"]
    data = IncrementalDataModule.from_detectron2(
        names["train"], val=names["val"], test=names["test"], input_size=(24, 32), tasks=2
    )
    assert [t.class_names for t in data.tasks] == [("sky", "car"), ("tree", "road")]
    ours = open_reader(tiny_index_png.manifest, "train", tiny_index_png.root)
    theirs = open_reader(data.manifest, "train")
    assert np.array_equal(theirs.class_table, ours.class_table)
    for i in range(len(ours)):
        a, b = ours.read(i), theirs.read(i)
        assert np.array_equal(a.image, b.image)
        assert a.semantic is not None
        assert b.semantic is not None
        assert np.array_equal(a.semantic, b.semantic)
    assert len(list(data.loader("train", 0))) > 0


@needs_detectron2
def test_panoptic_there_and_back(tiny_coco: SimpleNamespace, prefix: str) -> None:
    from detectron2.data import DatasetCatalog

    names = register(tiny_coco.manifest, tiny_coco.root, prefix)
    dicts = DatasetCatalog.get(names["test"])
    assert {s["isthing"] for s in dicts[0]["segments_info"]} == {True, False}
    data = IncrementalDataModule.from_detectron2(names["train"], test=names["test"], input_size=(20, 30), tasks=5)
    assert data.manifest.thing_ids == (1, 2, 18)
    assert data.manifest.class_names() == tiny_coco.manifest.class_names()
    ours, theirs = open_reader(tiny_coco.manifest, "train", tiny_coco.root), open_reader(data.manifest, "train")
    assert np.array_equal(theirs.class_table, ours.class_table)
    for i in range(len(ours)):
        a, b = ours.read(i), theirs.read(i)
        assert a.panoptic is not None
        assert b.panoptic is not None
        assert np.array_equal(a.panoptic[..., 0], b.panoptic[..., 0])
        assert len(a.crowd) == len(b.crowd)
        assert len(np.unique(a.panoptic[..., 1])) == len(np.unique(b.panoptic[..., 1]))


@needs_detectron2
def test_instances_become_things(tmp_path: Path, prefix: str) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from PIL import Image

    Image.fromarray(np.zeros((10, 12, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    square = [[2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]]
    inner = {"size": [10, 12], "counts": [10 * 4 + 4, 2, 8, 2, 64]}  # rows 4 and 5 of columns 4 and 5
    found = {
        "file_name": str(tmp_path / "a.png"),
        "image_id": 1,
        "height": 10,
        "width": 12,
        "annotations": [
            {"category_id": 1, "segmentation": inner, "bbox": [4, 4, 2, 2], "bbox_mode": 1},
            {"category_id": 0, "segmentation": square, "bbox": [2, 2, 6, 6], "bbox_mode": 1, "iscrowd": 1},
        ],
    }
    DatasetCatalog.register(prefix + "instances", lambda: [found])
    MetadataCatalog.get(prefix + "instances").set(thing_classes=["box", "lid"])
    data = IncrementalDataModule.from_detectron2(prefix + "instances", tasks=1)
    sample = open_reader(data.manifest, "train").read(0)
    assert sample.panoptic is not None
    # The lid is listed first, but it is smaller, and so it lies on top.
    assert sample.panoptic[4:6, 4:6].tolist() == [[[1, 1], [1, 1]]] * 2
    assert sample.panoptic[3, 3].tolist() == [0, 2]
    assert sample.panoptic[0, 0].tolist() == [VOID, 0]
    assert sample.crowd == {2}
    assert (sample.panoptic[..., 0] == 0).sum() + (sample.panoptic[..., 0] == 1).sum() == 36


@needs_detectron2
def test_an_unknown_name_and_a_taken_one(tiny_coco: SimpleNamespace, prefix: str) -> None:
    with pytest.raises(DataError, match="no data set 'nothing_here'"):
        IncrementalDataModule.from_detectron2("nothing_here")
    register(tiny_coco.manifest, tiny_coco.root, prefix)
    with pytest.raises(DataError, match="give another prefix"):
        register(tiny_coco.manifest, tiny_coco.root, prefix)


def damaged(array: np.ndarray[Any, Any], share: float, values: list[int], seed: int) -> np.ndarray[Any, Any]:
    """Blocks of `array` (H, W) overwritten by other values: a prediction that is partly right."""
    rng = np.random.default_rng(seed)
    result = array.copy()
    height, width = array.shape
    for _ in range(12):
        top, left = rng.integers(0, height), rng.integers(0, width)
        result[top : top + int(height * share), left : left + int(width * share)] = rng.choice(values)
    return result


@needs_detectron2
def test_miou_equals_that_of_their_evaluator(shared_data: Path, prefix: str) -> None:
    from detectron2.data import DatasetCatalog
    from detectron2.evaluation import SemSegEvaluator

    name = register("camvid", shared_data, prefix)["val"]
    theirs = SemSegEvaluator(name, distributed=False)
    theirs.reset()
    data = IncrementalDataModule("camvid", data_root=shared_data)
    ids = list(data.class_ids)
    ours = ConfusionMatrix(ids)
    reader = open_reader(data.manifest, "val", shared_data)
    for i, found in enumerate(DatasetCatalog.get(name)[:20]):
        truth = reader.read(i).semantic
        assert truth is not None
        guess = damaged(np.where(truth == VOID, 0, truth), 0.2, ids, seed=i)
        ours.update(truth, guess)
        scores = torch.nn.functional.one_hot(torch.as_tensor(np.searchsorted(ids, guess)), len(ids)).permute(2, 0, 1)
        theirs.process([found], [{"sem_seg": scores}])
    said = theirs.evaluate()["sem_seg"]
    assert said["mIoU"] == pytest.approx(100 * ours.compute()["miou"], abs=1e-6)
    assert said["pACC"] == pytest.approx(100 * ours.compute()["pixel_accuracy"], abs=1e-6)
    assert 30 < said["mIoU"] < 90  # neither all right nor all wrong: the comparison could fail


@needs_detectron2
def test_pq_equals_that_of_their_evaluator(shared_data: Path, prefix: str) -> None:
    pytest.importorskip("panopticapi", reason="detectron2's panoptic evaluator needs panopticapi")
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import COCOPanopticEvaluator

    name = register("coco200-panoptic", shared_data, prefix)["test"]
    data = IncrementalDataModule("coco200-panoptic", data_root=shared_data)
    things = set(data.manifest.thing_ids)
    theirs = COCOPanopticEvaluator(name)
    theirs.reset()
    ours = PanopticQuality(data.class_ids, sorted(things))
    reader = open_reader(data.manifest, "test", shared_data)
    column = {c: i for i, c in enumerate(data.class_ids)}
    assert MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id[1] == 0
    for i, found in enumerate(DatasetCatalog.get(name)):
        sample = reader.read(i)
        assert sample.panoptic is not None
        code = sample.panoptic[..., 0].astype(np.int64) * 1000 + sample.panoptic[..., 1]
        code = damaged(code, 0.15, [*np.unique(code).tolist(), VOID * 1000], seed=i)
        guess = np.stack([code // 1000, code % 1000], -1).astype(np.int32)
        ours.update(sample.panoptic, guess, sample.crowd)
        values, segment = np.unique(code, return_inverse=True)
        known = values // 1000 != VOID
        ids = np.where(known, np.arange(1, len(values) + 1), 0)
        info = [
            {
                "id": int(ids[j]),
                "category_id": column[int(values[j] // 1000)],
                "isthing": int(values[j] // 1000) in things,
            }
            for j in np.flatnonzero(known)
        ]
        theirs.process([found], [{"panoptic_seg": (torch.as_tensor(ids[segment.reshape(code.shape)]), info)}])
    said, mine = theirs.evaluate()["panoptic_seg"], ours.compute()
    for key, value in (("PQ", "pq"), ("SQ", "sq"), ("RQ", "rq"), ("PQ_th", "pq_things"), ("PQ_st", "pq_stuff")):
        assert said[key] == pytest.approx(100 * mine[value], abs=1e-6), key
    assert 20 < said["PQ"] < 95
