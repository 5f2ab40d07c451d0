"""Who a sample is: no two samples of a split share an id, whatever their files are called."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kc.data.check import check
from kc.data.datamodule import IncrementalDataModule
from kc.data.readers.base import LayoutError, unique_names
from kc.data.readers.open import open_reader
from kc.errors import DataError


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["i/a.png", "i/b.png"], ["a", "b"]),
        (["i/cam0/1.png", "i/cam1/1.png"], ["cam0/1", "cam1/1"]),
        (["i/0.bmp", "i/0.png", "i/1.png"], ["0.bmp", "0.png", "1"]),
        (["i/a.png", "i/a.bmp", "i/a.png.jpg"], ["a.png", "a.bmp", "a.png.jpg"]),
        (["i/c", "i/c.png"], ["c", "c.png"]),
        (["i/a/b.png", "i/a__b.png"], ["a/b", "a__b"]),
    ],
)
def test_names_are_paths_without_an_ending_where_these_differ(files: list[str], names: list[str]) -> None:
    assert unique_names(files, "i") == names


def test_one_file_listed_twice_has_the_owners_number_in_its_names() -> None:
    assert unique_names(["i/a.png", "i/a.png", "i/b.png"], "i", [3, 7, 8]) == ["a@3", "a@7", "b"]


def rewritten(coco: SimpleNamespace, files: list[str], ids: list[Any] | None = None) -> None:
    """Images of the test split under other file names, and ids."""
    path = coco.folder / "annotations" / "test.json"
    content = json.loads(path.read_text())
    top = coco.folder / "images" / "test"
    for i, (image, file) in enumerate(zip(content["images"], files, strict=True)):
        (top / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(top / image["file_name"], top / file)
        image["file_name"] = file
        if ids is not None:
            image["id"] = content["annotations"][i]["image_id"] = ids[i]
    path.write_text(json.dumps(content))


def test_equal_names_in_sub_folders_of_coco_are_samples_of_their_own(tiny_coco: SimpleNamespace) -> None:
    images = [open_reader(tiny_coco.manifest, "test", tiny_coco.root).read(i).image for i in range(3)]
    rewritten(tiny_coco, ["cam0/1.png", "cam1/1.png", "cam1/2.png"])
    reader = open_reader(tiny_coco.manifest, "test", tiny_coco.root)
    assert reader.sample_ids == ["test/cam0/1", "test/cam1/1", "test/cam1/2"]
    assert all(np.array_equal(reader.read(i).image, image) for i, image in enumerate(images))
    assert check(tiny_coco.manifest, ["test"], tiny_coco.root).problems == []


def test_one_file_under_two_image_ids_of_coco_is_two_samples(tiny_coco: SimpleNamespace) -> None:
    rewritten(tiny_coco, ["0.png", "0.png", "1.png"], [10, "eleven", 12])
    reader = open_reader(tiny_coco.manifest, "test", tiny_coco.root)
    assert reader.sample_ids == ["test/0@10", "test/0@eleven", "test/1"]
    assert [reader.owner_id(i) for i in range(3)] == [10, "eleven", 12]  # type: ignore[attr-defined]


def test_one_image_id_of_two_files_is_an_error_that_names_both(tiny_coco: SimpleNamespace) -> None:
    rewritten(tiny_coco, ["a.png", "b.png", "c.png"], [10, 11, 10])
    with pytest.raises(DataError, match=r"image id 10 .*a\.png.*c\.png"):
        open_reader(tiny_coco.manifest, "test", tiny_coco.root)


def test_paths_in_a_list_of_pairs_are_told_apart_by_their_folders(tiny_index_png: SimpleNamespace) -> None:
    top = tiny_index_png.folder
    for camera in ("cam0", "cam1"):
        for kind in ("images", "labels"):
            (top / kind / "test" / camera).mkdir()
            shutil.copy(next((top / kind / "test").glob("*.png")), top / kind / "test" / camera / "1.png")
    lines = [f"/images/test/{c}/1.png /labels/test/{c}/1.png" for c in ("cam0", "cam1")]
    (top / "test.txt").write_text("\n".join(lines))
    parts = dict(tiny_index_png.manifest.splits)
    parts["test"] = parts["test"].model_copy(update={"names": "test.txt"})
    manifest = tiny_index_png.manifest.model_copy(update={"splits": parts})
    assert open_reader(manifest, "test", tiny_index_png.root).sample_ids == ["test/cam0/1", "test/cam1/1"]


def test_two_samples_of_one_id_are_one_error_in_any_reader(tiny_folder: SimpleNamespace) -> None:
    reader = open_reader(tiny_folder.manifest, "test", tiny_folder.root)
    twice = reader.select([0, 1, 0])
    with pytest.raises(LayoutError, match=r"red/0\.png and .*red/0\.png: two samples have the id 'test/red/0\.png'"):
        IncrementalDataModule(tiny_folder.manifest, tasks=1, readers={"train": reader, "test": twice})
