"""Readers of files: values of tiny trees in the real formats, and an error that names the file for each defect."""

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
from kc.data.readers.files import inside
from kc.data.readers.index_png import IndexPngReader
from kc.data.readers.open import open_reader
from kc.errors import DataError, ManifestError, RunError
from kc.types import VOID


def edited(benchmark: SimpleNamespace, **values: Any) -> Any:
    """The benchmark's manifest with other values for some keys."""
    benchmark.path.write_text(yaml.safe_dump(benchmark.content | values))
    return load_manifest(benchmark.path)


def test_folder_reads_labels_in_manifest_and_file_order(tiny_folder: SimpleNamespace) -> None:
    reader = open_reader(tiny_folder.manifest, "train", tiny_folder.root)
    assert len(reader) == 12
    assert reader.sample_ids[:2] == ["train/red/0.png", "train/red/1.png"]
    assert reader.sample_ids[4] == "train/green_leaf/0.png"
    assert [reader.read(i).label for i in range(12)] == [0] * 4 + [1] * 4 + [2] * 4
    assert reader.class_table.tolist()[4] == [False, True, False]
    sample = reader.read(0)
    assert sample.image.shape == (20, 24, 3)
    assert sample.image.dtype == np.uint8
    assert sample.image[..., 0].mean() > 150 > sample.image[..., 2].mean()
    assert sample.semantic is None


def test_limit_keeps_every_class_in_classification(tiny_folder: SimpleNamespace) -> None:
    reader = open_reader(tiny_folder.manifest, "train", tiny_folder.root, limit=5)
    assert reader.sample_ids == [
        "train/red/0.png", "train/red/1.png", "train/green_leaf/0.png", "train/green_leaf/1.png", "train/blue/0.png",
    ]  # fmt: skip
    assert reader.class_table.sum(axis=0).tolist() == [2, 2, 1]
    assert len(open_reader(tiny_folder.manifest, "train", tiny_folder.root, limit=99)) == 12
    with pytest.raises(DataError, match="limit of 0"):
        open_reader(tiny_folder.manifest, "train", tiny_folder.root, limit=0)


def test_limit_is_evenly_spaced_in_segmentation(tiny_index_png: SimpleNamespace) -> None:
    reader = open_reader(tiny_index_png.manifest, "train", tiny_index_png.root, limit=3)
    assert reader.sample_ids == ["train/frame_0", "train/frame_2", "train/frame_4"]
    assert reader.class_table.shape == (3, 4)
    assert reader.read(1).id == "train/frame_2"


def test_folder_defects(tiny_folder: SimpleNamespace) -> None:
    extra = tiny_folder.folder / "train" / "violet"
    extra.mkdir()
    with pytest.raises(DataError, match=r"violet.*allowed: blue, green_leaf, red"):
        open_reader(tiny_folder.manifest, "train", tiny_folder.root)
    extra.rmdir()
    inner, loose, odd = (tiny_folder.folder / "train" / n for n in ("red/more", "loose.jpg", "blue/scan.HEIC"))
    inner.mkdir()
    Image.new("RGB", (4, 4)).save(loose)
    odd.write_bytes(b"x")
    (tiny_folder.folder / "train" / "readme.txt").write_text("no image")
    with pytest.raises(LayoutError) as caught:
        open_reader(tiny_folder.manifest, "train", tiny_folder.root)
    assert [p.partition("train/")[2].partition(";")[0] for p in caught.value.problems] == [
        "blue/scan.HEIC: .heic images are not read",
        "loose.jpg: an image without a label: it lies in no class folder",
        "red/more: a folder of no class of tiny-folder",
    ]
    inner.rmdir()
    for file in (loose, odd):
        file.unlink()
    assert len(open_reader(tiny_folder.manifest, "train", tiny_folder.root)) == 12
    for file in (tiny_folder.folder / "test" / "red").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"test/red: no image of class 'red'"):
        open_reader(tiny_folder.manifest, "test", tiny_folder.root)


def test_images_are_turned_upright_and_made_rgb(tiny_folder: SimpleNamespace) -> None:
    red = tiny_folder.folder / "train" / "red"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees
    Image.new("RGB", (24, 20)).save(red / "a.jpg", exif=exif)
    Image.new("L", (24, 20), 77).save(red / "b.png")
    Image.new("CMYK", (24, 20), (0, 255, 255, 0)).save(red / "c.jpg")
    Image.new("I;16", (24, 20), 900).save(red / "d.png")
    reader = open_reader(tiny_folder.manifest, "train", tiny_folder.root)
    read = {name: i for i, name in enumerate(reader.sample_ids)}
    assert reader.read(read["train/red/a.jpg"]).image.shape == (24, 20, 3)
    assert reader.read(read["train/red/b.png"]).image[0, 0].tolist() == [77, 77, 77]
    cmyk = reader.read(read["train/red/c.jpg"]).image[0, 0]
    assert cmyk[0] > 200
    assert cmyk[1] < 50
    with pytest.raises(DataError, match=r"d\.png.*deeper than 8 bits"):
        reader.read(read["train/red/d.png"])


def test_corrupt_and_escaping_images_name_the_file(tiny_folder: SimpleNamespace, tmp_path: Path) -> None:
    red = tiny_folder.folder / "train" / "red"
    (red / "0.png").write_bytes((red / "0.png").read_bytes()[:60])
    (red / "1.png").write_text("not an image")
    (red / "2.png").unlink()
    outside = tmp_path / "outside.png"
    Image.new("RGB", (4, 4)).save(outside)
    (red / "2.png").symlink_to(outside)
    reader = open_reader(tiny_folder.manifest, "train", tiny_folder.root)
    for index in (0, 1):
        with pytest.raises(DataError, match=rf"red/{index}\.png: cannot read the image"):
            reader.read(index)
    with pytest.raises(DataError, match=r"red/2\.png: leaves the data folder"):
        reader.read(2)


def test_links_of_folders_are_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    for folder in (root / "own", outside):
        folder.mkdir(parents=True)
    (root / "near").symlink_to(root / "own")
    (root / "far").symlink_to(outside)
    assert inside(root, "near/x.png") == root / "own" / "x.png"
    assert inside(root, "later/x.png") == root / "later" / "x.png"
    (root / "later").symlink_to(outside)  # it was asked for before there was such a folder
    for relative in ("far/x.png", "far", "later/x.png", "near/../../outside/x.png", ".."):
        with pytest.raises(DataError, match="leaves the data folder"):
            inside(root, relative)


def test_index_png_values(tiny_index_png: SimpleNamespace) -> None:
    reader = open_reader(tiny_index_png.manifest, "train", tiny_index_png.root)
    assert reader.sample_ids == [f"train/frame_{i}" for i in range(6)]
    sample = reader.read(4)
    assert sample.semantic is not None
    assert sample.semantic.dtype == np.int64
    assert sample.semantic[0, 0] == 0
    assert sample.semantic[23, 0] == 2
    assert sample.semantic[23, 31] == VOID
    assert sample.panoptic is None
    expected = [[True, i % 3 == 0, i % 3 == 1, i % 3 == 2] for i in range(6)]
    assert reader.class_table.tolist() == expected


def test_presence_is_cached_until_a_mask_changes(
    tiny_index_png: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KC_CACHE", str(tmp_path / "cache"))
    first = open_reader(tiny_index_png.manifest, "train", tiny_index_png.root).class_table
    calls: list[int] = []
    original = IndexPngReader.semantic

    def counted(self: IndexPngReader, index: int) -> Any:
        calls.append(index)
        return original(self, index)

    monkeypatch.setattr(IndexPngReader, "semantic", counted)
    assert np.array_equal(open_reader(tiny_index_png.manifest, "train", tiny_index_png.root).class_table, first)
    assert calls == []
    (stored,) = (tmp_path / "cache" / "index").iterdir()
    stored.write_bytes(stored.read_bytes()[:40])  # a damaged cache is computed again
    assert np.array_equal(open_reader(tiny_index_png.manifest, "train", tiny_index_png.root).class_table, first)
    assert sorted(calls) == list(range(6))
    Image.fromarray(np.full((24, 32), 3, np.uint8)).save(tiny_index_png.folder / "labels" / "train" / "frame_0.png")
    table = open_reader(tiny_index_png.manifest, "train", tiny_index_png.root).class_table
    assert table[0].tolist() == [False, False, False, True]


def test_a_cache_folder_that_cannot_be_written(
    tiny_index_png: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KC_CACHE", str(tmp_path / "file"))
    reader = open_reader(tiny_index_png.manifest, "train", tiny_index_png.root)
    with pytest.raises(RunError, match="KC_CACHE"):
        _ = reader.class_table


def test_index_png_defects(tiny_index_png: SimpleNamespace) -> None:
    labels = tiny_index_png.folder / "labels" / "train"
    Image.fromarray(np.full((24, 32), 7, np.uint8)).save(labels / "frame_0.png")
    Image.fromarray(np.zeros((24, 31), np.uint8)).save(labels / "frame_1.png")
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(labels / "frame_2.png")
    Image.fromarray(np.full((24, 32), 60000, np.uint16)).save(labels / "frame_3.png")
    reader = open_reader(tiny_index_png.manifest, "train", tiny_index_png.root)
    with pytest.raises(DataError, match=r"frame_0\.png: value 7 is no class.*allowed: 0, 1, 2, 3, 9"):
        reader.read(0)
    with pytest.raises(DataError, match=r"labels/train/frame_1\.png: the mask is 31x24 but its image .* is 32x24"):
        reader.read(1)
    with pytest.raises(DataError, match=r"frame_2\.png: mask mode 'RGB'"):
        reader.read(2)
    with pytest.raises(DataError, match=r"frame_3\.png: value 60000 is no class"):
        reader.read(3)
    with pytest.raises(DataError, match=r"frame_"):
        _ = reader.class_table
    (labels / "frame_5.png").unlink()
    with pytest.raises(DataError, match=r"images/train/frame_5\.png: its mask is missing; expected .*frame_5\.png"):
        open_reader(tiny_index_png.manifest, "train", tiny_index_png.root)
    (tiny_index_png.folder / "images" / "test" / "frame_1.png").unlink()
    with pytest.raises(DataError, match=r"labels/test/frame_1\.png: a mask without an image"):
        open_reader(tiny_index_png.manifest, "test", tiny_index_png.root)


def test_coco_values(tiny_coco: SimpleNamespace) -> None:
    reader = open_reader(tiny_coco.manifest, "train", tiny_coco.root)
    assert reader.sample_ids[1] == "train/000001"
    sample = reader.read(1)
    assert sample.panoptic is not None
    assert sample.semantic is not None
    assert sample.panoptic.dtype == np.int32
    assert sample.panoptic.shape == (20, 30, 2)
    assert sample.panoptic[5, 3].tolist() == [2, 1]
    assert sample.panoptic[10, 10].tolist() == [2, 2]
    assert sample.panoptic[0, 0].tolist() == [200, 0]
    assert sample.panoptic[19, 0].tolist() == [90, 0]
    assert sample.panoptic[3, 29].tolist() == [VOID, 0]
    assert sample.crowd == frozenset({2})
    assert np.array_equal(sample.semantic, sample.panoptic[..., 0])
    assert reader.read(0).crowd == frozenset()
    assert reader.class_table.tolist()[2] == [False, False, True, True, True]


def test_coco_as_semantic(tiny_coco: SimpleNamespace) -> None:
    sample = open_reader(edited(tiny_coco, task_kind="semantic"), "test", tiny_coco.root).read(0)
    assert sample.panoptic is None
    assert sample.semantic is not None
    assert set(np.unique(sample.semantic)) == {1, 90, 200, VOID}


def test_coco_segments_must_match(tiny_coco: SimpleNamespace) -> None:
    path = tiny_coco.folder / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0]["id"] = 299
    content["annotations"][1]["segments_info"].append({"id": 5, "category_id": 1, "iscrowd": 0})
    path.write_text(json.dumps(content))
    reader = open_reader(tiny_coco.manifest, "train", tiny_coco.root)
    with pytest.raises(DataError, match=r"000000\.png: segment 300 is not in the annotation file; allowed: 0 .*299"):
        reader.read(0)
    with pytest.raises(DataError, match=r"000001\.png: segment 5 of the annotation file has no pixel"):
        reader.read(1)


def test_coco_categories_must_be_the_classes(tiny_coco: SimpleNamespace) -> None:
    classes = [{**c, "name": "kitten"} if c["id"] == 1 else c for c in tiny_coco.content["classes"]][:-1]
    with pytest.raises(
        ManifestError, match=r"1: cat \(thing\) in the file, kitten \(thing\) in the manifest; 200: sky"
    ):
        open_reader(edited(tiny_coco, classes=classes), "train", tiny_coco.root)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["annotations"][0].update(file_name="../../../x.png"), "leaves the data folder"),
        (lambda c: c["images"][0].update(file_name="../../../../x.png"), "leaves the data folder"),
        (lambda c: c["annotations"][0].update(image_id=999), "of image id 999, which is not in"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=77), r"category 77; allowed: 1, 2, 18"),
        (lambda c: c.pop("categories"), "not a COCO annotation file"),
        (lambda c: c["annotations"].clear(), "no annotations"),
        (lambda c: c["annotations"].pop(0), r"0 annotations of image \S+; expected one"),
        (lambda c: c["annotations"].append(c["annotations"][0]), r"2 annotations of image \S+; expected one"),
    ],
)
def test_coco_bad_json(tiny_coco: SimpleNamespace, change: Any, said: str) -> None:
    path = tiny_coco.folder / "annotations" / "train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=said):
        open_reader(tiny_coco.manifest, "train", tiny_coco.root)


def test_missing_mask_and_image(tiny_coco: SimpleNamespace) -> None:
    reader = open_reader(tiny_coco.manifest, "train", tiny_coco.root)
    (tiny_coco.folder / "annotations" / "train" / "000000.png").unlink()
    (tiny_coco.folder / "images" / "train" / "000001.png").unlink()
    with pytest.raises(DataError, match=r"annotations/train/000000\.png: the mask is missing"):
        reader.read(0)
    with pytest.raises(DataError, match=r"images/train/000001\.png: the image is missing"):
        reader.read(1)


def test_where_the_data_is_looked_for(
    tiny_index_png: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    manifest = tiny_index_png.manifest
    monkeypatch.delenv("KC_DATA", raising=False)
    with pytest.raises(DataError, match=r"--data-root or KC_DATA"):
        open_reader(manifest, "train")
    assert len(open_reader(manifest, "train", tiny_index_png.folder)) == 6  # the root itself holds the files
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "tiny-index").symlink_to(tiny_index_png.folder)
    assert len(open_reader(manifest, "train", tmp_path / "linked")) == 6
    monkeypatch.setenv("KC_DATA", str(tiny_index_png.root))
    assert len(open_reader(manifest, "val")) == 2
    with pytest.raises(DataError, match=r"no data in .*elsewhere/tiny-index.*https://example.org/tiny.*--data-root"):
        open_reader(manifest, "train", tmp_path / "elsewhere")


def test_a_split_that_the_benchmark_lacks(tiny_folder: SimpleNamespace) -> None:
    with pytest.raises(DataError, match=r"tiny-folder has no split 'val'; its splits: train, test"):
        open_reader(tiny_folder.manifest, "val", tiny_folder.root)


def test_checksums_are_verified(tiny_coco: SimpleNamespace) -> None:
    manifest = edited(tiny_coco, checksum={"annotations/train.json": "sha256:" + "0" * 64})
    with pytest.raises(
        DataError, match=r"train\.json: its checksum is sha256:[0-9a-f]{64}, the manifest says sha256:0"
    ):
        open_reader(manifest, "train", tiny_coco.root)


@pytest.mark.parametrize(
    ("name", "split", "n"),
    [
        ("camvid", "train", 367), ("camvid", "val", 101), ("camvid", "test", 233), ("caltech50", "train", 3683),
        ("caltech50", "test", 1843), ("coco200-panoptic", "train", 100), ("coco200-panoptic", "test", 100),
    ],
)  # fmt: skip
def test_real_benchmarks(shared_data: Path, name: str, split: Any, n: int) -> None:
    reader = open_reader(load_manifest(name), split, shared_data)
    assert len(reader) == n == len(set(reader.sample_ids))
    assert reader.class_table.shape == (n, len(load_manifest(name).classes))
    last = reader.read(n - 1)
    assert last.image.shape[2] == 3
    if last.semantic is not None:
        held = set(np.unique(last.semantic)) - {VOID}
        assert held == {
            c for c, here in zip(load_manifest(name).class_ids(), reader.class_table[-1], strict=True) if here
        }
