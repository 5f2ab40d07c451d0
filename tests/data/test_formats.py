"""The formats of the data sets' owners: values of tiny trees laid out exactly as they distribute them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from kc.data.manifest import load_manifest
from kc.data.readers.base import LayoutError
from kc.data.readers.open import open_reader
from kc.errors import DataError, ManifestError
from kc.types import VOID


def save(path: Path, array: Any, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path, **options)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def benchmark(tmp_path: Path, kind: str, source: dict[str, Any], splits: dict[str, Any], names: list[Any],
              **more: Any) -> SimpleNamespace:  # fmt: skip
    """.manifest and .root (data root) and .folder of a benchmark; `names`: class names, or whole classes."""
    classes = [n if isinstance(n, dict) else {"id": i, "name": n} for i, n in enumerate(names)]
    content = {"name": "tiny", "task_kind": kind, "source": {**source, "folder": "tiny"}, "splits": splits,
               "classes": classes, "input_size": [16, 16], **more}  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    (tmp_path / "data" / "tiny").mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(
        manifest=load_manifest(path), root=tmp_path / "data", folder=tmp_path / "data" / "tiny", content=content
    )


# Pascal VOC: palette PNGs, 255 along the borders, lists of names, augmented lists of paths.


def voc_palette() -> list[int]:
    """The colour map of the VOC devkit (VOClabelcolormap): the bits of the index, dealt over red, green and blue."""
    palette = []
    for index in range(256):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
        palette += color
    return palette


@pytest.fixture
def voc(tmp_path: Path) -> SimpleNamespace:
    """VOC2012: 4 JPEGs of 12 x 10 (W x H), 3 of them segmented; an augmented list of 2 with grey masks."""
    top = tmp_path / "data" / "tiny"
    for i in range(4):
        save(top / "JPEGImages" / f"2007_00000{i}.jpg", np.full((10, 12, 3), 40 * i))
    for i in range(3):
        mask = np.zeros((10, 12), dtype=np.uint8)
        mask[2:8, 2:8], mask[1, 2:8] = i, 255
        path = top / "SegmentationClass" / f"2007_00000{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(mask).convert("P")
        image.putpalette(voc_palette())
        image.putdata(mask.ravel().tolist())
        image.save(path)
    save(top / "SegmentationClassAug" / "2007_000003.png", np.full((10, 12), 2))
    save(top / "SegmentationClassAug" / "2007_000001.png", np.full((10, 12), 1))
    lists = top / "ImageSets" / "Segmentation"
    write(lists / "train.txt", "2007_000002\n2007_000000\n")
    write(lists / "val.txt", "2007_000001\r\n\r\n")
    write(lists / "train_aug.txt", "".join(f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png\n"
                                           for n in ("2007_000003", "2007_000001")))  # fmt: skip
    part = {"images": "JPEGImages", "labels": "SegmentationClass"}
    splits = {
        "train": {**part, "names": "ImageSets/Segmentation/train.txt"},
        "val": {**part, "names": "ImageSets/Segmentation/train_aug.txt"},
        "test": {**part, "names": "ImageSets/Segmentation/val.txt"},
    }
    names = [{"id": 0, "name": "background", "background": True}, {"id": 1, "name": "aeroplane"},
             {"id": 2, "name": "bicycle"}]  # fmt: skip
    return benchmark(tmp_path, "semantic", {"reader": "index_png"}, splits, names, ignore=255)


def test_voc_reads_palette_indices_in_the_order_of_the_list(voc: SimpleNamespace) -> None:
    assert voc_palette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    with Image.open(voc.folder / "SegmentationClass" / "2007_000002.png") as mask:
        assert mask.mode == "P"
    reader = open_reader(voc.manifest, "train", voc.root)
    assert reader.sample_ids == ["train/2007_000002", "train/2007_000000"]
    semantic = reader.read(0).semantic
    assert semantic is not None
    assert (semantic[0, 0], semantic[2, 2], semantic[1, 2]) == (0, 2, VOID)
    assert reader.class_table.tolist() == [[True, False, True], [True, False, False]]
    assert open_reader(voc.manifest, "test", voc.root).sample_ids == ["test/2007_000001"]


def test_voc_augmented_list_names_its_own_files(voc: SimpleNamespace) -> None:
    reader = open_reader(voc.manifest, "val", voc.root)
    assert reader.sample_ids == ["val/2007_000003", "val/2007_000001"]
    first = reader.read(0)
    assert first.semantic is not None
    assert np.all(first.semantic == 2)
    assert abs(int(first.image.mean()) - 120) <= 2


def test_voc_list_problems_are_all_named(voc: SimpleNamespace) -> None:
    lists = voc.folder / "ImageSets" / "Segmentation"
    write(lists / "train.txt", "2007_000003\n2007_000000\n2007_000000\na b c\n2007_000009\n")
    with pytest.raises(LayoutError) as caught:
        open_reader(voc.manifest, "train", voc.root)
    said = caught.value.problems
    assert len(said) == 4
    assert "line 1: no mask of '2007_000003'" in said[0]
    assert "line 3: 2007_000000 stands in line 2 already" in said[1]
    assert "line 4: 'a b c'; expected a name" in said[2]
    assert "line 5: no image and mask of '2007_000009'" in said[3]
    write(lists / "train_aug.txt", "/JPEGImages/2007_000003.jpg /../../secret.png\n")
    with pytest.raises(DataError, match="leaves the data folder"):
        open_reader(voc.manifest, "val", voc.root)
    (lists / "val.txt").unlink()
    with pytest.raises(DataError, match=r"val\.txt: cannot be read"):
        open_reader(voc.manifest, "test", voc.root)


# Cityscapes: one folder a city, three further files beside each label map.


def test_cityscapes_pairs_by_city_and_ending(tmp_path: Path) -> None:
    top = tmp_path / "data" / "tiny"
    for city, number, value in (("ulm", "000001_000019", 1), ("aachen", "000000_000019", 0)):
        stem = f"{city}_{number}"
        save(top / "leftImg8bit" / "train" / city / f"{stem}_leftImg8bit.png", np.full((4, 8, 3), 9))
        labels = np.full((4, 8), value)
        labels[0] = 255
        save(top / "gtFine" / "train" / city / f"{stem}_gtFine_labelTrainIds.png", labels)
        save(top / "gtFine" / "train" / city / f"{stem}_gtFine_labelIds.png", labels + 7)
        save(top / "gtFine" / "train" / city / f"{stem}_gtFine_color.png", np.zeros((4, 8, 3)))
        write(top / "gtFine" / "train" / city / f"{stem}_gtFine_polygons.json", "{}")
    train = {"images": "leftImg8bit/train", "labels": "gtFine/train", "image_ending": "_leftImg8bit.png",
             "label_ending": "_gtFine_labelTrainIds.png", "recursive": True}  # fmt: skip
    tiny = benchmark(tmp_path, "semantic", {"reader": "index_png"}, {"train": train}, ["road", "sidewalk"], ignore=255)
    reader = open_reader(tiny.manifest, "train", tiny.root)
    assert reader.sample_ids == ["train/aachen/aachen_000000_000019", "train/ulm/ulm_000001_000019"]
    semantic = reader.read(1).semantic
    assert semantic is not None
    assert (semantic[0, 0], semantic[1, 0]) == (VOID, 1)
    (top / "gtFine" / "train" / "ulm" / "ulm_000001_000019_gtFine_labelTrainIds.png").unlink()
    with pytest.raises(DataError, match=r"its mask is missing; expected .*ulm/ulm_000001_000019_gtFine_labelTrainIds"):
        open_reader(tiny.manifest, "train", tiny.root)


# COCO-Object and VOC20: several values of a mask mean one class, or nothing.


def test_several_values_are_one_class_or_ignored(tmp_path: Path) -> None:
    top = tmp_path / "data" / "tiny"
    save(top / "images" / "a.jpg", np.full((2, 3, 3), 80))
    path = top / "labels" / "a.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.array([[0, 91, 181], [255, 1, 7]], np.uint8)).save(path)
    names = [
        {"id": 200, "name": "background", "values": [91, 181]},
        {"id": 0, "name": "person"},
        {"id": 1, "name": "car"},
    ]
    train = {"images": "images", "labels": "labels"}
    tiny = benchmark(tmp_path, "semantic", {"reader": "index_png"}, {"train": train}, names, ignore=[7, 255])
    semantic = open_reader(tiny.manifest, "train", tiny.root).read(0).semantic
    assert semantic is not None
    assert semantic.tolist() == [[0, 200, 200], [VOID, 1, VOID]]


@pytest.mark.parametrize("more", [{"values": [1]}, {"values": [255]}, {"values": [91, 91]}])
def test_a_mask_value_has_one_meaning(tmp_path: Path, more: dict[str, Any]) -> None:
    names = [{"id": 0, "name": "background", **more}, {"id": 1, "name": "car"}]
    train = {"images": "images", "labels": "labels"}
    with pytest.raises(ManifestError, match="two meanings"):
        benchmark(tmp_path, "semantic", {"reader": "index_png"}, {"train": train}, names, ignore=255)


# ADE20K SceneParsing: 8-bit index PNGs, 0 = other; some tools write the maps with 16 bits.


def test_ade20k_zero_is_ignored_and_16_bit_masks_are_read(tmp_path: Path) -> None:
    top = tmp_path / "data" / "tiny"
    for i, name in enumerate(("ADE_train_00000001", "ADE_train_00000002")):
        save(top / "images" / "training" / f"{name}.jpg", np.full((6, 6, 3), 80))
        mask = np.zeros((6, 6), dtype=np.uint16)
        mask[3:] = 150 - i
        path = top / "annotations" / "training" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask if i else mask.astype(np.uint8)).save(path)
    names = [{"id": 149, "name": "clock"}, {"id": 150, "name": "flag"}]
    train = {"images": "images/training", "labels": "annotations/training"}
    tiny = benchmark(tmp_path, "semantic", {"reader": "index_png"}, {"train": train}, names, ignore=0)
    reader = open_reader(tiny.manifest, "train", tiny.root)
    for index, value in ((0, 150), (1, 149)):
        semantic = reader.read(index).semantic
        assert semantic is not None
        assert (semantic[0, 0], semantic[3, 0]) == (VOID, value)


# Tables.


@pytest.fixture
def table(tmp_path: Path) -> SimpleNamespace:
    top = tmp_path / "data" / "tiny"
    for name in ("a.png", "b.png", "sub/c.png"):
        save(top / "pictures" / name, np.zeros((4, 4, 3)))
    write(top / "train.csv", '﻿file;note;species\na.png;;red fox\nsub/c.png;"x; y";7\n')
    write(top / "test.csv", "file;note;species\nb.png;;wolf\n")
    source = {"reader": "csv", "image": "file", "label": "species", "delimiter": ";"}
    splits = {s: {"file": f"{s}.csv", "images": "pictures"} for s in ("train", "test")}
    names = [{"id": 3, "name": "red fox"}, {"id": 7, "name": "grey wolf", "folder": "wolf"}]
    return benchmark(tmp_path, "classification", source, splits, names)


def test_csv_labels_are_names_file_names_or_ids(table: SimpleNamespace) -> None:
    reader = open_reader(table.manifest, "train", table.root)
    assert reader.sample_ids == ["train/a.png", "train/sub/c.png"]
    assert [reader.read(i).label for i in range(2)] == [3, 7]
    assert reader.class_table.tolist() == [[True, False], [False, True]]
    assert open_reader(table.manifest, "test", table.root).read(0).label == 7


def test_csv_problems_are_all_named_with_their_lines(table: SimpleNamespace) -> None:
    rows = "a.png;;red fix\nb.png;;wolf\nb.png;;wolf\nnone.png;;wolf\n;;wolf\n"
    write(table.folder / "train.csv", "file;note;species\n" + rows)
    with pytest.raises(LayoutError) as caught:
        open_reader(table.manifest, "train", table.root)
    said = caught.value.problems
    assert len(said) == 4
    assert "line 2: label 'red fix' is no class of tiny; did you mean 'red fox'?" in said[0]
    assert "line 4: b.png stands in line 3 already" in said[1]
    assert "line 5: no image 'none.png' in" in said[2]
    assert "line 6: no image" in said[3]
    write(table.folder / "train.csv", "file,species\na.png,wolf\n")
    with pytest.raises(DataError, match=r"no column 'file'; its columns: file,species"):
        open_reader(table.manifest, "train", table.root)
    write(table.folder / "train.csv", "file;note;species\n../../x.png;;wolf\n")
    with pytest.raises(DataError, match="leaves the data folder"):
        open_reader(table.manifest, "train", table.root)
    write(table.folder / "train.csv", "file;note;species\n")
    with pytest.raises(DataError, match="no row below the header"):
        open_reader(table.manifest, "train", table.root)


# CUB-200-2011.


@pytest.fixture
def cub(tmp_path: Path) -> SimpleNamespace:
    top = tmp_path / "data" / "tiny"
    images = ["001.Black_footed_Albatross/B_0046_18.jpg", "001.Black_footed_Albatross/B_0009_34.jpg",
              "002.Laysan_Albatross/L_0002_1027.jpg"]  # fmt: skip
    for name in images:
        save(top / "images" / name, np.zeros((4, 4, 3)))
    write(top / "classes.txt", "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
    write(top / "images.txt", "".join(f"{i} {name}\n" for i, name in enumerate(images, start=1)))
    write(top / "image_class_labels.txt", "1 1\n2 1\n3 2\n")
    write(top / "train_test_split.txt", "1 0\n2 1\n3 1\n")
    names = [{"id": 0, "name": "black footed albatross", "folder": "001.Black_footed_Albatross"},
             {"id": 1, "name": "laysan albatross", "folder": "002.Laysan_Albatross"}]  # fmt: skip
    splits = {"train": {"part": "train"}, "test": {"part": "test"}}
    return benchmark(tmp_path, "classification", {"reader": "cub"}, splits, names)


def test_cub_lists_say_class_and_side(cub: SimpleNamespace) -> None:
    train, test = (open_reader(cub.manifest, split, cub.root) for split in ("train", "test"))
    assert train.sample_ids == [
        "train/001.Black_footed_Albatross/B_0009_34.jpg",
        "train/002.Laysan_Albatross/L_0002_1027.jpg",
    ]
    assert [train.read(i).label for i in range(2)] == [0, 1]
    assert test.sample_ids == ["test/001.Black_footed_Albatross/B_0046_18.jpg"]
    assert len(open_reader(cub.manifest, "test", cub.folder)) == 1  # the root itself holds the lists


def test_cub_lists_that_do_not_fit(cub: SimpleNamespace) -> None:
    write(cub.folder / "train_test_split.txt", "1 0\n2 1\n")
    (cub.folder / "images" / "001.Black_footed_Albatross" / "B_0009_34.jpg").unlink()
    with pytest.raises(LayoutError) as caught:
        open_reader(cub.manifest, "train", cub.root)
    assert len(caught.value.problems) == 2
    assert "the image is missing" in caught.value.problems[0]
    assert "image 3 has None; expected 0 or 1" in caught.value.problems[1]
    write(cub.folder / "image_class_labels.txt", "1 1\n1 2\n")
    with pytest.raises(DataError, match=r"image_class_labels\.txt, line 2: '1 2'; expected a new number"):
        open_reader(cub.manifest, "train", cub.root)
    write(cub.folder / "image_class_labels.txt", "1 1\n")
    write(cub.folder / "classes.txt", "1 001.Black_footed_Albatross\n")
    with pytest.raises(ManifestError, match=r"classes\.txt: its 1 classes are not those of tiny"):
        open_reader(cub.manifest, "train", cub.root)


# CIFAR, binary version.


def test_cifar_records(tmp_path: Path) -> None:
    splits = {"train": {"files": ["data_batch_1.bin", "data_batch_2.bin"]}, "test": {"files": ["test.bin"]}}
    names = [f"class {i}" for i in range(10)]
    tiny = benchmark(tmp_path, "classification", {"reader": "cifar_binary", "label_bytes": 2}, splits, names)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    records = [bytes([99, i + 4]) + images[i].transpose(2, 0, 1).tobytes() for i in range(3)]  # coarse, fine, planes
    (tiny.folder / "data_batch_1.bin").write_bytes(b"".join(records[:2]))
    (tiny.folder / "data_batch_2.bin").write_bytes(records[2])
    reader = open_reader(tiny.manifest, "train", tiny.root)
    assert reader.sample_ids == ["train/00000", "train/00001", "train/00002"]
    for i in range(3):
        assert reader.read(i).label == i + 4
        assert np.array_equal(reader.read(i).image, images[i])
    assert reader.select([2]).read(0).label == 6
    assert reader.class_table.argmax(axis=1).tolist() == [4, 5, 6]
    (tiny.folder / "test.bin").write_bytes(records[0][:-1])
    with pytest.raises(DataError, match=r"3073 bytes are not a whole number of records of 3074"):
        open_reader(tiny.manifest, "test", tiny.root)
    (tiny.folder / "test.bin").write_bytes(bytes([0, 10]) + records[0][2:] + bytes([0, 77]) + records[0][2:])
    with pytest.raises(LayoutError, match=r"record 0 has label 10, no class of tiny\n.*record 1 has label 77"):
        open_reader(tiny.manifest, "test", tiny.root)
    (tiny.folder / "test.bin").unlink()
    with pytest.raises(DataError, match=r"test\.bin: cannot read the images"):
        open_reader(tiny.manifest, "test", tiny.root)


# LabelMe.


@pytest.fixture
def labelme(tmp_path: Path) -> SimpleNamespace:
    """One image of 20 x 16 (W x H): a polygon of grass, two cats of which one in two parts, a dog drawn over one."""
    top = tmp_path / "data" / "tiny"
    save(top / "train" / "photo 1.png", np.zeros((16, 20, 3)))
    shapes = [
        {"label": "grass", "points": [[0, 8], [19, 8], [19, 15], [0, 15]], "shape_type": "polygon"},
        {"label": "cat", "points": [[1, 1], [3, 3]], "shape_type": "rectangle", "group_id": 5},
        {"label": "cat", "points": [[8, 3], [6, 1]], "shape_type": "rectangle", "group_id": 5},
        {"label": "cat", "points": [[11, 1], [17, 1], [17, 6], [11, 6]], "group_id": None},
        {"label": "dog", "points": [[14, 4], [14, 6]], "shape_type": "circle"},
    ]
    content = {"version": "5.4.1", "flags": {}, "imagePath": "photo 1.png", "imageData": None,
               "imageHeight": 16, "imageWidth": 20, "shapes": shapes}  # fmt: skip
    write(top / "train" / "photo 1.json", json.dumps(content))
    names = [{"id": 2, "name": "cat", "thing": True}, {"id": 4, "name": "dog", "thing": True},
             {"id": 9, "name": "grass"}]  # fmt: skip
    tiny = benchmark(tmp_path, "panoptic", {"reader": "labelme"}, {"train": {"path": "train"}}, names)
    tiny.shapes = content
    return tiny


def test_labelme_draws_shapes_in_order(labelme: SimpleNamespace) -> None:
    reader = open_reader(labelme.manifest, "train", labelme.root)
    assert reader.sample_ids == ["train/photo 1"]
    sample = reader.read(0)
    assert sample.panoptic is not None
    assert sample.semantic is not None
    assert sample.panoptic[8, 0].tolist() == [9, 0]
    assert sample.panoptic[1, 1].tolist() == sample.panoptic[3, 8].tolist() == [2, 1]
    assert int((sample.panoptic == (2, 1)).all(-1).sum()) == 18  # two squares of 3 x 3, outlines included
    assert sample.panoptic[1, 11].tolist() == [2, 2]
    assert sample.panoptic[4, 14].tolist() == [4, 3]
    assert sample.panoptic[0, 0].tolist() == [VOID, 0]
    assert np.array_equal(sample.semantic, sample.panoptic[..., 0])
    assert reader.class_table.tolist() == [[True, True, True]]


def test_labelme_background_fills_what_no_shape_covers(tmp_path: Path, labelme: SimpleNamespace) -> None:
    names = [{"id": 0, "name": "none", "background": True}, *labelme.content["classes"]]
    tiny = benchmark(tmp_path, "semantic", {"reader": "labelme"}, {"train": {"path": "train"}}, names)
    sample = open_reader(tiny.manifest, "train", tiny.root).read(0)
    assert sample.panoptic is None
    assert sample.semantic is not None
    assert sample.semantic[0, 0] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["shapes"][0].update(label="gras"), r"label 'gras' is no class of tiny; did you mean 'grass'"),
        (lambda c: c["shapes"][0].update(shape_type="linestrip"), r"'grass': a 'linestrip' has no area"),
        (lambda c: c["shapes"][0].update(points=[[1, 1], [2, 2]]), r"'grass': a polygon: 2 points"),
        (lambda c: c["shapes"][0].update(points=[[1, float("nan")]] * 3), r"NaN"),
        (lambda c: c.update(imagePath="other.png"), r"its image .*other\.png is missing"),
        (lambda c: c.update(imagePath="../../../x.png"), "leaves the data folder"),
        (lambda c: c.pop("shapes"), "not a LabelMe file"),
    ],
)
def test_labelme_defects(labelme: SimpleNamespace, change: Any, said: str) -> None:
    change(labelme.shapes)
    write(labelme.folder / "train" / "photo 1.json", json.dumps(labelme.shapes))
    with pytest.raises(LayoutError, match=said):
        open_reader(labelme.manifest, "train", labelme.root)


def test_labelme_images_without_a_file_are_named(labelme: SimpleNamespace) -> None:
    save(labelme.folder / "train" / "new.jpg", np.zeros((4, 4, 3)))
    with pytest.raises(LayoutError, match=r"train/new\.jpg: no JSON file labels this image"):
        open_reader(labelme.manifest, "train", labelme.root)


def test_labelme_size_must_be_that_of_the_image(labelme: SimpleNamespace) -> None:
    labelme.shapes["imageWidth"] = 21
    write(labelme.folder / "train" / "photo 1.json", json.dumps(labelme.shapes))
    with pytest.raises(DataError, match=r"photo 1\.json: the mask is 21x16 but its image .* is 20x16"):
        open_reader(labelme.manifest, "train", labelme.root).read(0)


# Class folders without a published split (Caltech-101, ImageNet-R).


def test_shares_of_class_folders_are_apart_and_complete(tmp_path: Path) -> None:
    names = [f"image_{i:04d}.jpg" for i in range(1, 11)]
    for folder in ("cat", "dog", "BACKGROUND_Google"):
        for name in names:
            save(tmp_path / "data" / "tiny" / folder / name, np.zeros((4, 4, 3)))
    splits = {"train": {"path": ".", "share": [0, 75]}, "test": {"path": ".", "share": [75, 100]}}
    source = {"reader": "folder", "skip": ["BACKGROUND_Google"]}
    tiny = benchmark(tmp_path, "classification", source, splits, ["cat", "dog"])
    train, test = (open_reader(tiny.manifest, split, tiny.root) for split in ("train", "test"))
    assert (len(train), len(test)) == (14, 6)
    ids = [i.partition("/")[2] for reader in (train, test) for i in reader.sample_ids]
    assert sorted(ids) == sorted(f"{folder}/{name}" for folder in ("cat", "dog") for name in names)
    # By `printf image_0001.jpg | sha256sum`, ...: the same on every machine and with other files beside them.
    assert test.sample_ids[:3] == ["test/cat/image_0004.jpg", "test/cat/image_0005.jpg", "test/cat/image_0007.jpg"]


# Images as cameras and programs write them.


def test_palette_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    top = tmp_path / "data" / "tiny" / "train" / "cat"
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    top.mkdir(parents=True)
    palette.save(top / "a.png")
    Image.new("LA", (6, 4), (90, 0)).save(top / "b.png")
    Image.new("RGBA", (6, 4), (1, 2, 3, 4)).save(top / "c.png")
    Image.new("1", (6, 4), 1).save(top / "d.png")
    tiny = benchmark(tmp_path, "classification", {"reader": "folder"}, {"train": {"path": "train"}}, ["cat"])
    reader = open_reader(tiny.manifest, "train", tiny.root)
    colors = [reader.read(i).image[0, 0].tolist() for i in range(4)]
    assert colors == [[10, 200, 30], [90, 90, 90], [1, 2, 3], [255, 255, 255]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_images_are_named(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / "data" / "tiny" / "train" / "cat" / f"a.{suffix}"
    save(path, np.random.default_rng(0).integers(0, 256, (40, 40, 3)))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    tiny = benchmark(tmp_path, "classification", {"reader": "folder"}, {"train": {"path": "train"}}, ["cat"])
    with pytest.raises(DataError, match=rf"a\.{suffix}: cannot read the image"):
        open_reader(tiny.manifest, "train", tiny.root).read(0)
