"""Where labels lie: orientation, run lengths, polygons, sizes and ids that people really have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coder

from kc.data.check import check
from kc.data.manifest import MOST_CLASS_ID, load_manifest
from kc.data.readers.drawn import coordinates, instance_mask
from kc.data.readers.files import check_area, read_image, read_mask
from kc.data.readers.open import open_reader
from kc.errors import DataError, ManifestError
from kc.outside import parse_json
from tests.data.test_formats import benchmark, save

SQUARE = [[4.0, 4.0, 20.0, 4.0, 20.0, 20.0, 4.0, 20.0]]
SIZE = (24, 32)


# Orientation.


def oriented(tmp_path: Path, orientation: int, tagged: bool, size: tuple[int, int]) -> tuple[Any, Path]:
    """A benchmark of one image that is stored turned, red where its mask is 1; `tagged`: the mask says so too."""
    made = benchmark(tmp_path, "semantic", {"reader": "index_png"},
                     {"train": {"images": "i", "labels": "m"}}, ["grass", "roof"])  # fmt: skip
    mask = np.zeros(size, np.uint8)
    mask[1:5, 2:4] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(made.folder / "i/a.png", mask[..., None] * np.array([200, 0, 0]), exif=exif)
    save(made.folder / "m/a.png", mask, **({"exif": exif} if tagged else {}))
    return made.manifest, made.root


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("tagged", [True, False])
def test_a_mask_stays_on_its_image(tmp_path: Path, orientation: int, tagged: bool) -> None:
    manifest, root = oriented(tmp_path, orientation, tagged, (8, 12))
    reader = open_reader(manifest, "train", root)
    if not tagged and orientation < 5:  # of equal size, as stored and upright: nobody can tell
        with pytest.raises(DataError, match=r"a\.png.*orientation"):
            reader.read(0)
        assert len(check(manifest, data_root=root).problems) == 1
        return
    sample = reader.read(0)
    assert sample.semantic is not None
    assert sample.semantic.shape == ((12, 8) if orientation >= 5 else (8, 12))
    np.testing.assert_array_equal(sample.semantic == 1, sample.image[..., 0] == 200)
    assert (sample.semantic == 1).sum() == 8


def test_a_mask_of_the_upright_image_is_left(tmp_path: Path) -> None:
    manifest, root = oriented(tmp_path, 6, False, (8, 12))
    mask = np.zeros((12, 8), np.uint8)
    mask[0, 0] = 1
    save(root / "tiny/m/a.png", mask)
    semantic = open_reader(manifest, "train", root).read(0).semantic
    assert semantic is not None
    np.testing.assert_array_equal(semantic, mask)


# Run lengths and polygons.

BAD_SHAPES: dict[str, Any] = {
    "two points": [[10, 10, 20, 12]],
    "good and two points": [*SQUARE, [30, 30, 31, 31]],
    "one point": [[10, 10]],
    "odd": [[4, 4, 20, 4, 20, 20, 4]],
    "nothing": [],
    "empty": [[]],
    "flat": SQUARE[0],
    "null": None,
    "huge": [[-1e9, -1e9, 1e9, -1e9, 1e9, 1e9]],
    "not a number": [[float("nan"), 4, 20, 4, 20, 20]],
    "infinity": [[float("inf"), 4, 20, 4, 20, 20]],
    "shares": [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]],
    "text": [["1", "2", "3", "4", "5", "6"]],
    "wide integers": [[10**30, 4, 20, 4, 20, 20]],
    "longest": [[x for i in range(100) for x in (i % 2 * 90_000, i)]],
    "size": {"size": [10, 10], "counts": [0, 100]},
    "no size": {"counts": [0, 768]},
    "too long": {"size": [24, 32], "counts": [10, 99999]},
    "too short": {"size": [24, 32], "counts": [10, 20]},
    "negative": {"size": [24, 32], "counts": [800, -32]},
    "wraps": {"size": [24, 32], "counts": [2**63 - 1, 2**63 - 1, 770]},
    "fractions": {"size": [24, 32], "counts": [700.5, 67.5]},
    "text short": {"size": [24, 32], "counts": "0"},
    "text empty": {"size": [24, 32], "counts": ""},
    "text cut": {"size": [24, 32], "counts": "PPPP"},
    "text foreign": {"size": [24, 32], "counts": "\x01\x7f"},
    "text long": {"size": [24, 32], "counts": "o" * 40 + "0"},
}


@pytest.mark.parametrize("segmentation", BAD_SHAPES.values(), ids=BAD_SHAPES)
def test_shapes_that_cannot_be_drawn_are_named(segmentation: Any) -> None:
    with pytest.raises(DataError, match=r"^a\.jpg, annotation 7: "):
        instance_mask(segmentation, SIZE, "a.jpg, annotation 7")


def test_a_good_polygon_covers_what_it_did() -> None:
    assert instance_mask(SQUARE, SIZE, "x").sum() == 256
    assert coordinates([[1, 2], [3, 4]], 2, "x").tolist() == [[1, 2], [3, 4]]


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_run_lengths_are_those_of_the_coco_api(height: int, width: int, data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.asfortranarray(np.array(bits, dtype=np.uint8).reshape(height, width))
    rle = coder.encode(mask)
    for counts in (rle["counts"], rle["counts"].decode()):
        np.testing.assert_array_equal(instance_mask({"size": rle["size"], "counts": counts}, mask.shape, "x"), mask)
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    runs = np.diff(edges, prepend=0, append=len(flat)).tolist()
    np.testing.assert_array_equal(instance_mask({"size": [height, width], "counts": runs}, mask.shape, "x"), mask)


def test_the_annotation_is_named_by_run_and_check(tmp_path: Path) -> None:
    made = benchmark(tmp_path, "panoptic", {"reader": "coco_instances"},
                     {"train": {"images": ".", "annotations": "a.json"}},
                     [{"id": 1, "name": "ball", "thing": True}])  # fmt: skip
    save(made.folder / "0.png", np.zeros((*SIZE, 3)))
    content = {
        "images": [{"id": 1, "file_name": "0.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 5]]}],
        "categories": [{"id": 1, "name": "ball"}],
    }
    (made.folder / "a.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")  # with a byte order mark
    (problem,) = check(made.manifest, data_root=made.root).problems
    assert "0.png, annotation 7: 2 points" in problem
    with pytest.raises(DataError, match="annotation 7"):
        open_reader(made.manifest, "train", made.root).read(0)


# Masks, ids and sizes.


def test_alpha_that_says_nothing_is_left(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    full = np.full_like(values, 255)
    save(tmp_path / "la.png", np.dstack([values, full]))
    save(tmp_path / "rgba.png", np.dstack([values, values, values, full]))
    np.testing.assert_array_equal(read_mask(tmp_path, "la.png", channels=1), values)
    assert read_mask(tmp_path, "rgba.png", channels=3).shape == (3, 4, 3)
    save(tmp_path / "half.png", np.dstack([values, values, values, full // 2]))
    with pytest.raises(DataError, match=r"half\.png.*RGBA"):
        read_mask(tmp_path, "half.png", channels=3)


def test_class_ids_have_a_bound(tmp_path: Path) -> None:
    made = benchmark(tmp_path, "classification", {"reader": "folder"}, {"train": {"path": "."}},
                     [{"id": MOST_CLASS_ID, "name": "a"}])  # fmt: skip
    for wrong in (MOST_CLASS_ID + 1, 2**31, 2**64):
        made.content["classes"][0]["id"] = wrong
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(made.content))
        with pytest.raises(ManifestError, match=r"classes\.0\.id.*65534"):
            load_manifest(tmp_path / "wrong.yaml")


@pytest.mark.parametrize("number", [0, -1, 1 << 24, 2**40])
def test_segment_ids_that_no_png_holds_are_refused_at_opening(tmp_path: Path, number: int) -> None:
    made = benchmark(tmp_path, "panoptic", {"reader": "coco_panoptic"},
                     {"train": {"images": ".", "annotations": "a.json", "masks": "."}}, ["road"])  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "0.jpg"}],
        "annotations": [
            {"image_id": 1, "file_name": "0.png", "segments_info": [{"id": number, "category_id": 0, "iscrowd": 0}]}
        ],
        "categories": [{"id": 0, "name": "road", "isthing": 0}],
    }
    (made.folder / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"a\.json: segment id {number} of"):
        open_reader(made.manifest, "train", made.root)


def test_large_images_are_too_large_not_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png.*too large.*KC_MAX_PIXELS"):
        read_image(tmp_path, "b.png")
    monkeypatch.setenv("KC_MAX_PIXELS", "1000")
    save(tmp_path / "small.png", np.zeros((40, 40)))
    with pytest.raises(DataError, match=r"small\.png: 40x40 pixels.*1,000"):
        read_image(tmp_path, "small.png")
    monkeypatch.setenv("KC_MAX_PIXELS", "many")
    with pytest.raises(DataError, match="KC_MAX_PIXELS"):
        check_area((1, 1), "x")


def test_boxes_as_shares_are_refused(tmp_path: Path) -> None:
    made = benchmark(tmp_path, "classification", {"reader": "voc_xml", "take": "boxes"},
                     {"train": {"images": ".", "annotations": "."}}, ["cat"])  # fmt: skip
    save(made.folder / "a.png", np.zeros((9, 9, 3)))
    box = "<xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.6</xmax><ymax>0.7</ymax>"
    (made.folder / "a.xml").write_text(
        f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
    )
    with pytest.raises(DataError, match=r"a\.xml: a box of 'cat'.*shares"):
        open_reader(made.manifest, "train", made.root)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html><title>404", "web page"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "heic"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", "corrupt or not an image"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path: Path, start: bytes, said: str) -> None:
    (tmp_path / "a.jpg").write_bytes(start + bytes(100))
    with pytest.raises(DataError, match=rf"a\.jpg.*{said}"):
        read_image(tmp_path, "a.jpg")


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp"])
def test_several_pictures_in_one_file_are_refused(tmp_path: Path, name: str) -> None:
    pictures = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    pictures[0].save(tmp_path / name)
    assert read_image(tmp_path, name).shape == (8, 8, 3)
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
    with pytest.raises(DataError, match="holds 2 pictures"):
        read_image(tmp_path, name)


def test_parse_json_has_no_nan() -> None:
    with pytest.raises(DataError, match="NaN"):
        parse_json('{"a": NaN}', "a.json")
