"""Formats with numbers, boxes or programs of their own: values of tiny trees as their owners distribute them."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat

from kc.data.datamodule import IncrementalDataModule
from kc.data.manifest import load_manifest
from kc.data.readers.base import LayoutError
from kc.data.readers.open import open_reader
from kc.errors import DataError, ManifestError, UnknownNameError
from kc.types import VOID


def save(path: Path, array: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def benchmark(tmp_path: Path, kind: str, source: dict[str, Any], splits: dict[str, Any], classes: list[Any],
              **more: Any) -> SimpleNamespace:  # fmt: skip
    """.manifest, .root and .folder; `classes`: names, or whole classes."""
    named = [c if isinstance(c, dict) else {"id": i, "name": c} for i, c in enumerate(classes)]
    content = {"name": "tiny", "task_kind": kind, "source": {"folder": "tiny", **source}, "splits": splits,
               "classes": named, "input_size": [8, 8], **more}  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(path=path, manifest=load_manifest(path), root=tmp_path / "data", folder=folder)


# VOC: instances, and boxes.


@pytest.fixture
def voc_objects(tmp_path: Path) -> SimpleNamespace:
    """One image of 8 x 10: two aeroplanes side by side, a bicycle, void borders."""
    top = tmp_path / "data" / "tiny"
    classes, objects = np.zeros((8, 10)), np.zeros((8, 10))
    for number, (value, columns) in enumerate([(1, slice(0, 2)), (1, slice(3, 5)), (2, slice(6, 9))], start=1):
        classes[2:6, columns], objects[2:6, columns] = value, number
    classes[:, 5], objects[:, 5] = 255, 255
    save(top / "JPEGImages" / "2007_000032.jpg", np.full((8, 10, 3), 90))
    save(top / "SegmentationClass" / "2007_000032.png", classes)
    save(top / "SegmentationObject" / "2007_000032.png", objects)
    write(top / "ImageSets" / "Segmentation" / "train.txt", "2007_000032\n")
    part = {"images": "JPEGImages", "labels": "SegmentationClass", "objects": "SegmentationObject",
            "names": "ImageSets/Segmentation/train.txt"}  # fmt: skip
    named = [{"id": 0, "name": "background", "background": True}, {"id": 1, "name": "aeroplane", "thing": True},
             {"id": 2, "name": "bicycle", "thing": True}]  # fmt: skip
    return benchmark(tmp_path, "panoptic", {"reader": "index_png"}, {"train": part}, named, ignore=255)


def test_voc_objects_become_instances(voc_objects: SimpleNamespace) -> None:
    sample = open_reader(voc_objects.manifest, "train", voc_objects.root).read(0)
    assert sample.panoptic is not None
    assert [sample.panoptic[3, x].tolist() for x in (0, 3, 7, 5, 9)] == [[1, 1], [1, 2], [2, 3], [VOID, 0], [0, 0]]
    assert sample.semantic is not None
    assert np.array_equal(sample.semantic, sample.panoptic[..., 0])


def test_voc_objects_must_cover_things_and_be_there(voc_objects: SimpleNamespace) -> None:
    file = voc_objects.folder / "SegmentationObject" / "2007_000032.png"
    objects = np.array(Image.open(file))
    objects[3, 7] = 0
    save(file, objects)
    with pytest.raises(DataError, match=r"SegmentationObject.*1 pixels of class 2, a thing, are no object"):
        open_reader(voc_objects.manifest, "train", voc_objects.root).read(0)
    file.unlink()
    with pytest.raises(LayoutError, match="its objects are missing"):
        open_reader(voc_objects.manifest, "train", voc_objects.root)


def test_panoptic_index_masks_need_objects(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"splits\.train\.objects"):
        benchmark(tmp_path, "panoptic", {"reader": "index_png"}, {"train": {"images": "a", "labels": "b"}},
                  [{"id": 1, "name": "cat", "thing": True}])  # fmt: skip


def voc_object(name: str, box: tuple[int, int, int, int], difficult: int = 0) -> str:
    sides = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


@pytest.fixture
def voc_boxes(tmp_path: Path) -> Any:
    """Three images: two cats and a difficult dog; a cat and a larger dog; a dog."""
    top = tmp_path / "data" / "tiny"
    cats = voc_object("cat", (1, 1, 2, 3)) + voc_object("cat", (3, 3, 6, 6)) + voc_object("dog", (1, 1, 8, 6), 1)
    both = voc_object("cat", (1, 1, 2, 2)) + voc_object("dog", (1, 1, 8, 5))
    for name, objects in (("000001", cats), ("000002", both), ("000003", voc_object("dog", (2, 2, 3, 3)))):
        image = np.arange(6)[:, None] * 10 + np.arange(8)[None]
        path = top / "JPEGImages" / f"{name}.png"
        save(path, np.stack([image] * 3, -1))
        size = "<size><width>8</width><height>6</height><depth>3</depth></size>"
        write(
            top / "Annotations" / f"{name}.xml", f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"
        )
    write(top / "ImageSets" / "Main" / "train.txt", "000003 -1\n000001  1\n000002  0\n")

    def make(take: str, **more: Any) -> SimpleNamespace:
        part = {"images": "JPEGImages", "annotations": "Annotations", "names": "ImageSets/Main/train.txt"}
        source = {"reader": "voc_xml", "take": take, **more}
        return benchmark(tmp_path, "classification", source, {"train": part}, ["cat", "dog"])

    return make


def test_voc_xml_takes_images_of_one_class_the_largest_box_or_boxes(voc_boxes: Any) -> None:
    for take, more, wanted in [
        ("single", {}, [("train/000003.png", 1), ("train/000001.png", 0)]),
        ("largest", {}, [("train/000003.png", 1), ("train/000001.png", 0), ("train/000002.png", 1)]),
        ("largest", {"difficult": True}, [("train/000003.png", 1), ("train/000001.png", 1), ("train/000002.png", 1)]),
    ]:
        tiny = voc_boxes(take, **more)
        reader = open_reader(tiny.manifest, "train", tiny.root)
        assert [(s.id, s.label) for s in map(reader.read, range(len(reader)))] == wanted
        assert reader.class_table.argmax(1).tolist() == [label for _, label in wanted]
    tiny = voc_boxes("boxes")
    reader = open_reader(tiny.manifest, "train", tiny.root)
    assert list(reader.sample_ids) == ["train/000003/0", "train/000001/0", "train/000001/1", "train/000002/0",
                                       "train/000002/1"]  # fmt: skip
    # xmin 3, ymin 3, xmax 6, ymax 6 from 1 and inclusive: rows and columns 2..5.
    cut = reader.read(2).image
    assert cut.shape == (4, 4, 3)
    assert (cut[0, 0, 0], cut[-1, -1, 0]) == (22, 55)
    assert reader.select([4]).read(0).label == 1


def test_voc_xml_problems_are_all_named(voc_boxes: Any) -> None:
    tiny = voc_boxes("largest")
    xml = tiny.folder / "Annotations"
    write(xml / "000001.xml", f"<annotation>{voc_object('dogs', (1, 1, 2, 2))}</annotation>")
    write(xml / "000002.xml", "<annotation><object>")
    write(xml / "000003.xml", f"<annotation>{voc_object('dog', (1, 1, 2, 2), 1)}</annotation>")
    with pytest.raises(LayoutError) as caught:
        open_reader(tiny.manifest, "train", tiny.root)
    said = " | ".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "label 'dogs' is no class of tiny; did you mean 'dog'?" in said
    assert "cannot read this annotation" in said
    assert "no object that counts" in said


# PASCAL-Context.


@pytest.fixture
def context(tmp_path: Path) -> SimpleNamespace:
    top = tmp_path / "data" / "tiny"
    save(top / "JPEGImages" / "2008_000002.jpg", np.full((3, 4, 3), 50))
    label_map = np.array([[284, 284, 432, 432], [1, 1, 459, 0], [2, 2, 2, 2]], np.uint16)
    (top / "trainval").mkdir()
    savemat(top / "trainval" / "2008_000002.mat", {"LabelMap": label_map}, do_compression=True)
    write(top / "train.txt", "2008_000002\n")
    part = {"images": "JPEGImages", "labels": "trainval", "names": "train.txt"}
    named = [{"id": 1, "name": "light", "values": [284]}, {"id": 2, "name": "aeroplane"},
             {"id": 284, "name": "wood", "values": [459]}]  # fmt: skip
    return benchmark(tmp_path, "semantic", {"reader": "pascal_context"}, {"train": part}, named)


def test_pascal_context_numbers_become_classes(context: SimpleNamespace) -> None:
    reader = open_reader(context.manifest, "train", context.root)
    semantic = reader.read(0).semantic
    assert semantic is not None
    # 284 is the class that says so, not the class whose id it is; 1 and 432 belong to none.
    assert semantic.tolist() == [[1, 1, VOID, VOID], [VOID, VOID, 284, VOID], [2, 2, 2, 2]]
    assert reader.class_table.tolist() == [[True, True, True]]


def test_pascal_context_others_are_the_background(tmp_path: Path, context: SimpleNamespace) -> None:
    named = [{"id": 0, "name": "background", "background": True}, {"id": 2, "name": "aeroplane"}]
    part = {"images": "JPEGImages", "labels": "trainval"}
    tiny = benchmark(tmp_path, "semantic", {"reader": "pascal_context"}, {"train": part}, named)
    semantic = open_reader(tiny.manifest, "train", tiny.root).read(0).semantic
    assert semantic is not None
    assert semantic.tolist() == [[0] * 4, [0] * 4, [2] * 4]


def test_pascal_context_files_that_are_none(context: SimpleNamespace) -> None:
    file = context.folder / "trainval" / "2008_000002.mat"
    reader = open_reader(context.manifest, "train", context.root)
    whole = file.read_bytes()
    for content, said in [
        (whole[: len(whole) // 2], "cannot read this MAT-file"),
        (b"nothing of the kind" * 20, "cannot read this MAT-file"),
    ]:
        file.write_bytes(content)
        with pytest.raises(DataError, match=said):
            reader.read(0)
    savemat(file, {"LabelMap": np.zeros((3, 4))})
    with pytest.raises(DataError, match=r"expected a map LabelMap \(H, W\) of whole numbers, found float64"):
        reader.read(0)
    savemat(file, {"Labels": np.zeros((3, 4), np.uint16)})
    with pytest.raises(DataError, match="found nothing of that name"):
        reader.read(0)


# The full ADE20K.


@pytest.fixture
def ade(tmp_path: Path) -> Any:
    """One image: wall (2978), two windows (3055) with B 40 and 90, a class of no benchmark; panes (1500) as parts."""
    place = tmp_path / "data" / "tiny" / "images" / "ADE" / "training" / "urban" / "street"
    number = np.full((4, 6), 2978)
    blue = np.full((4, 6), 10)
    number[1:3, 0:2], blue[1:3, 0:2] = 3055, 90
    number[1:3, 3:5], blue[1:3, 3:5] = 3055, 40
    number[3, :2], number[3, 5], blue[3, 5] = 77, 0, 0
    save(place / "ADE_train_00000001.jpg", np.full((4, 6, 3), 70))
    save(place / "ADE_train_00000001_seg.png", np.stack([number // 256 * 10, number % 256, blue], -1))
    save(place / "ADE_train_00000002.jpg", np.full((4, 6, 3), 70))
    save(place / "ADE_train_00000002_seg.png", np.zeros((4, 6, 3)))
    parts = np.zeros((4, 6, 3))
    parts[1, 0:2] = (1500 // 256 * 10, 1500 % 256, 33)
    save(place / "ADE_train_00000001_parts_1.png", parts)
    write(place / "ADE_train_00000001.json", "{}")

    def make(level: int, classes: list[Any]) -> SimpleNamespace:
        source = {"reader": "ade20k_full", "level": level}
        return benchmark(tmp_path, "panoptic", source, {"train": {"path": "images/ADE/training"}}, classes)

    return make


def test_ade20k_full_decodes_classes_and_instances(ade: Any) -> None:
    tiny = ade(0, [{"id": 0, "name": "wall", "values": [2978]},
                   {"id": 1, "name": "window", "values": [3055], "thing": True}])  # fmt: skip
    reader = open_reader(tiny.manifest, "train", tiny.root)
    assert list(reader.sample_ids) == ["train/urban/street/ADE_train_00000001", "train/urban/street/ADE_train_00000002"]
    sample = reader.read(0)
    assert sample.panoptic is not None
    found = [sample.panoptic[y, x].tolist() for y, x in ((0, 0), (1, 0), (1, 3), (3, 0), (3, 5))]
    assert found == [[0, 0], [1, 2], [1, 1], [VOID, 0], [VOID, 0]]
    assert reader.class_table.tolist() == [[True, True], [False, False]]


def test_ade20k_full_parts_are_of_the_images_that_have_them(ade: Any) -> None:
    tiny = ade(1, [{"id": 0, "name": "pane", "values": [1500], "thing": True}])
    reader = open_reader(tiny.manifest, "train", tiny.root)
    assert list(reader.sample_ids) == ["train/urban/street/ADE_train_00000001"]
    panoptic = reader.read(0).panoptic
    assert panoptic is not None
    assert panoptic[1, :3].tolist() == [[0, 1], [0, 1], [VOID, 0]]
    deeper = ade(2, ["pane"])
    with pytest.raises(DataError, match=r"no file that ends in _parts_2\.png"):
        open_reader(deeper.manifest, "train", deeper.root)


# COCO instances.


@pytest.fixture
def instances(tmp_path: Path) -> SimpleNamespace:
    top = tmp_path / "data" / "tiny"
    for name in ("a", "b"):
        save(top / "val2017" / f"{name}.png", np.full((10, 12, 3), 30))
    big = [[2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]]
    inner = {"size": [10, 12], "counts": [10 * 4 + 4, 2, 8, 2, 64]}  # rows 4 and 5 of columns 4 and 5
    content = {
        "images": [{"id": 7, "file_name": "b.png", "height": 10, "width": 12},
                   {"id": 3, "file_name": "a.png", "height": 10, "width": 12}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 5, "segmentation": inner, "iscrowd": 1, "area": 4},
            {"id": 2, "image_id": 3, "category_id": 2, "segmentation": big, "iscrowd": 0, "area": 36},
        ],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "lid"}],
    }  # fmt: skip
    write(top / "annotations" / "instances_val2017.json", json.dumps(content))
    named = [{"id": 2, "name": "cat", "thing": True}, {"id": 5, "name": "lid", "thing": True}]
    part = {"images": "val2017", "annotations": "annotations/instances_val2017.json"}
    tiny = benchmark(tmp_path, "panoptic", {"reader": "coco_instances"}, {"train": part}, named)
    tiny.content, tiny.part, tiny.named = content, part, named
    return tiny


def test_coco_instances_are_painted_large_to_small(instances: SimpleNamespace) -> None:
    reader = open_reader(instances.manifest, "train", instances.root)
    assert list(reader.sample_ids) == ["train/a", "train/b"]
    sample = reader.read(0)
    assert sample.panoptic is not None
    assert sample.panoptic[4, 4].tolist() == [5, 1]
    assert sample.panoptic[3, 3].tolist() == [2, 2]
    assert sample.panoptic[0, 0].tolist() == [VOID, 0]
    assert sample.crowd == {1}
    assert reader.class_table.tolist() == [[True, True], [False, False]]


def test_coco_instances_on_a_background(tmp_path: Path, instances: SimpleNamespace) -> None:
    named = [{"id": 0, "name": "rest", "background": True}, *instances.named]
    tiny = benchmark(tmp_path, "semantic", {"reader": "coco_instances"}, {"train": instances.part}, named)
    reader = open_reader(tiny.manifest, "train", tiny.root)
    semantic = reader.read(0).semantic
    assert semantic is not None
    assert np.unique(semantic).tolist() == [0, 2, 5]
    assert reader.class_table.tolist() == [[True, True, True], [True, False, False]]


def test_coco_instances_defects(tmp_path: Path, instances: SimpleNamespace) -> None:
    file = instances.folder / instances.part["annotations"]
    for change, error, said in [
        (lambda c: c["categories"].pop(), ManifestError, "5: absent in the file, lid in the manifest"),
        (lambda c: c["annotations"][0].update(image_id=99), DataError, "of image id 99, which is not in"),
        (lambda c: c["annotations"][0].update(category_id=9), DataError, "category 9, which is not listed"),
        (lambda c: c["images"][0].update(file_name="../../../x.png"), DataError, "leaves the data folder"),
    ]:
        content = json.loads(json.dumps(instances.content))
        change(content)
        write(file, json.dumps(content))
        with pytest.raises(error, match=said):
            open_reader(instances.manifest, "train", instances.root)
    content = json.loads(json.dumps(instances.content))
    content["annotations"][1]["segmentation"] = {"size": [10, 12], "counts": "\x01"}
    write(file, json.dumps(content))
    with pytest.raises(DataError):
        open_reader(instances.manifest, "train", instances.root).read(0)


def test_coco_instances_agree_with_the_panoptic_reader(shared_data: Path, tmp_path: Path) -> None:
    """Real photographs: the things of the panoptic PNGs, written as run lengths, come back as they were."""
    from pycocotools import mask as coder

    manifest = load_manifest("coco200-panoptic")
    reader = open_reader(manifest, "test", shared_data, limit=6)
    images, annotations, things = [], [], set(manifest.thing_ids)
    top = tmp_path / "data" / "tiny"
    for i in range(len(reader)):
        sample = reader.read(i)
        assert sample.panoptic is not None
        save(top / "images" / f"{i}.png", sample.image)
        height, width = sample.panoptic.shape[:2]
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        for class_id, number in np.unique(sample.panoptic.reshape(-1, 2), axis=0).tolist():
            if class_id in things:
                mask = (sample.panoptic == (class_id, number)).all(-1)
                code = coder.encode(np.asfortranarray(mask.astype(np.uint8)))
                annotations.append({"image_id": i, "category_id": class_id,
                                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                                    "iscrowd": int(number in sample.crowd)})  # fmt: skip
    named = [{"id": c.id, "name": c.name, "thing": True} for c in manifest.classes if c.thing]
    content = {"images": images, "annotations": annotations,
               "categories": [{"id": c["id"], "name": c["name"]} for c in named]}  # fmt: skip
    write(top / "instances.json", json.dumps(content))
    part = {"images": "images", "annotations": "instances.json"}
    tiny = benchmark(tmp_path, "panoptic", {"reader": "coco_instances"}, {"test": part}, named)
    ours = open_reader(tiny.manifest, "test", tiny.root)
    for i in range(len(reader)):
        theirs, sample = reader.read(i), ours.read(i)
        assert theirs.panoptic is not None
        assert sample.panoptic is not None
        kept = np.isin(theirs.panoptic[..., 0], list(things))
        assert np.array_equal(sample.panoptic[..., 0], np.where(kept, theirs.panoptic[..., 0], VOID))
        pairs = np.unique(np.stack([theirs.panoptic[..., 1][kept], sample.panoptic[..., 1][kept]], -1), axis=0)
        assert len(pairs) == len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1]))
        assert len(sample.crowd) == len(theirs.crowd)


# torchvision.


def mnist(folder: Path, images: np.ndarray, labels: list[int]) -> None:
    """Training files in the IDX format, as MNIST's owners and torchvision keep them."""
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        header = struct.pack(">IIII", 0x803, *images.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(labels)) + bytes(labels))


def test_torchvision_mnist_and_a_stream_of_it(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = [i % 10 for i in range(20)]
    mnist(tmp_path / "data" / "tiny" / "MNIST" / "raw", images, labels)
    splits = {"train": {"arguments": {"train": True}}, "test": {"arguments": {"train": False}}}
    source = {"reader": "torchvision", "dataset": "MNIST"}
    tiny = benchmark(tmp_path, "classification", source, splits, [f"digit {i}" for i in range(10)])
    reader = open_reader(tiny.manifest, "train", tiny.root)
    assert list(reader.sample_ids)[:2] == ["train/0000000", "train/0000001"]
    assert [reader.read(i).label for i in (0, 3, 12)] == [0, 3, 2]
    assert np.array_equal(reader.read(5).image, np.stack([images[5]] * 3, -1))
    assert reader.class_table.argmax(1).tolist() == labels
    assert reader.select([7]).read(0).label == 7
    data = IncrementalDataModule(tiny.path, tasks=5, data_root=tiny.root)
    data.setup()
    assert [len(data.loader("train", t).dataset) for t in range(5)] == [4] * 5


@pytest.mark.parametrize(("name", "dataset"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_the_files_that_are_fetched_lie_where_they_are_read(name: str, dataset: str, tmp_path: Path) -> None:
    manifest = load_manifest(name)
    assert {a.into for a in manifest.download} == {f"{name}/{dataset}/raw"}
    images = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)
    mnist(tmp_path / manifest.download[0].into, images, list(range(10)))
    named = {Path(a.file_name).stem for a in manifest.download}
    assert named == {p.name for p in (tmp_path / manifest.download[0].into).iterdir()}
    for split in ("train", "test"):
        reader = open_reader(manifest, split, tmp_path)
        assert [reader.read(i).label for i in range(10)] == list(range(10))
        assert np.array_equal(reader.read(9).image[..., 0], images[9])


def test_torchvision_cifar10_is_checked_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision unpickles CIFAR only where the files have the checksums that its own source says."""
    from torchvision.datasets import CIFAR10

    top = tmp_path / "data" / "cifar-10-batches-py"
    top.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    batch = pickle.dumps({"data": pixels, "labels": [3, 9]})
    meta = pickle.dumps({"label_names": [str(i) for i in range(10)]})
    (top / "data_batch_1").write_bytes(batch)
    (top / "batches.meta").write_bytes(meta)
    source = {"reader": "torchvision", "dataset": "CIFAR10", "folder": "."}
    splits = {"train": {"arguments": {"train": True}}}
    tiny = benchmark(tmp_path, "classification", source, splits, [f"class {i}" for i in range(10)])
    with pytest.raises(DataError, match=r"CIFAR10\(train=True\) cannot be read from .*corrupted"):
        open_reader(tiny.manifest, "train", tiny.root)
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", hashlib.md5(batch).hexdigest()]])
    monkeypatch.setattr(CIFAR10, "test_list", [])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashlib.md5(meta).hexdigest()})
    reader = open_reader(tiny.manifest, "train", tiny.root)
    assert [reader.read(i).label for i in range(2)] == [3, 9]
    assert np.array_equal(reader.read(1).image, pixels[1].reshape(3, 32, 32).transpose(1, 2, 0))


def test_torchvision_voc_segmentation(tmp_path: Path) -> None:
    top = tmp_path / "data" / "tiny" / "VOCdevkit" / "VOC2012"
    save(top / "JPEGImages" / "x.jpg", np.full((4, 5, 3), 8))
    mask = np.array([[0, 0, 1, 1, 255]] * 4)
    save(top / "SegmentationClass" / "x.png", mask)
    write(top / "ImageSets" / "Segmentation" / "val.txt", "x\n")
    source = {"reader": "torchvision", "dataset": "VOCSegmentation"}
    splits = {"test": {"arguments": {"year": "2012", "image_set": "val"}}}
    tiny = benchmark(tmp_path, "semantic", source, splits, ["background", "aeroplane"], ignore=255)
    reader = open_reader(tiny.manifest, "test", tiny.root)
    semantic = reader.read(0).semantic
    assert semantic is not None
    assert np.array_equal(semantic, np.where(mask == 255, VOID, mask.astype(np.int64)))
    assert reader.class_table.tolist() == [[True, True]]


def test_torchvision_images_are_read_as_carefully_as_ours(tmp_path: Path) -> None:
    top = tmp_path / "data" / "tiny" / "cat"
    top.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees
    Image.new("RGB", (6, 4)).save(top / "a.jpg", exif=exif)
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(top / "b.jpg")
    Image.new("I;16", (6, 4), 900).save(top / "c.png")
    (top / "d.jpg").write_bytes((top / "b.jpg").read_bytes()[:200])
    source = {"reader": "torchvision", "dataset": "ImageFolder"}
    reader = open_reader(benchmark(tmp_path, "classification", source, {"train": {}}, ["cat"]).manifest, "train",
                         tmp_path / "data")  # fmt: skip
    assert reader.read(0).image.shape == (6, 4, 3)
    assert reader.read(1).image[0, 0].tolist()[0] > 200
    for index, said in ((2, r"c\.png.*deeper than 8 bits"), (3, r"d\.jpg: cannot read the image")):
        with pytest.raises(DataError, match=said):
            reader.read(index)


def test_torchvision_errors(tmp_path: Path) -> None:
    def opened(dataset: str, arguments: dict[str, Any], n: int = 10) -> Any:
        source = {"reader": "torchvision", "dataset": dataset}
        splits = {"train": {"arguments": arguments}}
        tiny = benchmark(tmp_path, "classification", source, splits, [f"class {i}" for i in range(n)])
        return open_reader(tiny.manifest, "train", tiny.root)

    with pytest.raises(UnknownNameError, match=r"unknown torchvision data set 'MNST'.*'MNIST'"):
        opened("MNST", {})
    with pytest.raises(UnknownNameError, match="LSUN"):  # it would unpickle a file of the working folder
        opened("LSUN", {})
    with pytest.raises(DataError, match=r"MNIST\(train=True\) cannot be read from"):
        opened("MNIST", {"train": True})
    with pytest.raises(ManifestError, match="'download' is not for a manifest to say"):
        opened("MNIST", {"download": True})
    mnist(tmp_path / "data" / "tiny" / "MNIST" / "raw", np.zeros((2, 28, 28), np.uint8), [1, 2])
    with pytest.raises(DataError, match="MNIST has 10 classes, tiny has 9"):
        opened("MNIST", {"train": True}, n=9)
    with pytest.raises(DataError, match="unexpected keyword argument 'side'"):
        opened("MNIST", {"side": "left"})


# Hugging Face datasets.


@pytest.fixture
def table() -> Any:
    """Four rows: PNG bytes and a numbered label, cat or dog."""
    datasets = pytest.importorskip("datasets", reason="the extra `huggingface` is not installed")
    images = [Image.fromarray(np.full((4, 6, 3), 40 * i, np.uint8)) for i in range(4)]
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["dog", "cat"]),
            "note": datasets.Value("string"),
        }
    )
    return datasets.Dataset.from_dict({"picture": images, "kind": [0, 1, 1, 0], "note": ["x"] * 4}, features=features)


def test_huggingface_from_disk_and_parquet(tmp_path: Path, table: Any) -> None:
    import datasets

    source = {"reader": "huggingface", "image": "picture", "label": "kind"}
    classes = [{"id": 4, "name": "house cat", "folder": "cat"}, {"id": 9, "name": "dog"}]
    tiny = benchmark(tmp_path, "classification", source, {"train": {"part": "train"}}, classes)
    datasets.DatasetDict({"train": table}).save_to_disk(str(tiny.folder))
    reader = open_reader(tiny.manifest, "train", tiny.root)
    assert list(reader.sample_ids) == [f"train/000000{i}" for i in range(4)]
    assert [reader.read(i).label for i in range(4)] == [9, 4, 4, 9]
    assert reader.read(2).image.tolist() == np.full((4, 6, 3), 80).tolist()
    assert reader.class_table.tolist() == [[False, True], [True, False], [True, False], [False, True]]
    assert reader.select([1, 3]).read(1).label == 9
    (tmp_path / "data" / "tiny" / "data").mkdir()
    table.to_parquet(str(tiny.folder / "data" / "train-0.parquet"))
    tiny = benchmark(tmp_path, "classification", source, {"train": {"files": ["data/train-0.parquet"]}}, classes)
    reader = open_reader(tiny.manifest, "train", tiny.root)
    assert [reader.read(i).label for i in range(4)] == [9, 4, 4, 9]


def test_huggingface_label_maps(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `huggingface` is not installed")
    mask = np.array([[0, 1, 255], [1, 1, 0]], np.uint8)
    content = {"image": [Image.new("RGB", (3, 2))], "label": [Image.fromarray(mask)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    source = {"reader": "huggingface"}
    tiny = benchmark(tmp_path, "semantic", source, {"test": {"part": "test"}}, ["sky", "sea"], ignore=255)
    rows = datasets.Dataset.from_dict(content, features=features)
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tiny.folder))
    reader = open_reader(tiny.manifest, "test", tiny.root)
    semantic = reader.read(0).semantic
    assert semantic is not None
    assert np.array_equal(semantic, np.where(mask == 255, VOID, mask.astype(np.int64)))
    assert reader.class_table.tolist() == [[True, True]]


def test_huggingface_errors(tmp_path: Path, table: Any) -> None:
    import datasets

    source = {"reader": "huggingface", "image": "picture", "label": "kind"}

    def opened(more: dict[str, Any], part: dict[str, Any], classes: list[str]) -> Any:
        tiny = benchmark(tmp_path, "classification", {**source, **more}, {"train": part}, classes)
        return open_reader(tiny.manifest, "train", tiny.root)

    folder = tmp_path / "data" / "tiny"
    with pytest.raises(DataError, match="`datasets` cannot open it"):
        opened({}, {"part": "train"}, ["cat", "dog"])
    datasets.DatasetDict({"train": table}).save_to_disk(str(folder))
    with pytest.raises(DataError, match=r"has no split 'test'; its splits: train"):
        opened({}, {"part": "test"}, ["cat", "dog"])
    with pytest.raises(DataError, match=r"no column 'species'; its columns: picture, kind, note"):
        opened({"label": "species"}, {"part": "train"}, ["cat", "dog"])
    with pytest.raises(DataError, match="label 'dog' is no class of tiny"):
        opened({}, {"part": "train"}, ["cat", "horse"])
    with pytest.raises(ManifestError, match="either `part`, the name of a split, or `files`"):
        opened({}, {}, ["cat", "dog"])
    # As plain columns: `datasets` puts files into the table where it knows that they are images.
    plain = {"picture": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
             "kind": datasets.Value("int64")}  # fmt: skip
    content = {"picture": [{"path": "/etc/hostname", "bytes": None}], "kind": [0]}
    outside = datasets.Dataset.from_dict(content, features=datasets.Features(plain))
    datasets.DatasetDict({"train": outside}).save_to_disk(str(folder))
    with pytest.raises(DataError, match="leaves the data folder"):
        opened({}, {"part": "train"}, ["cat", "dog"]).read(0)
