"""`check` finds every defect that was put into a benchmark, names it, and goes on."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from kc.cli import main
from kc.data.check import check
from kc.data.manifest import load_manifest
from kc.data.readers.base import LayoutError, summed
from kc.data.readers.open import open_reader


def test_a_sound_benchmark_has_no_problem(tiny_coco: SimpleNamespace) -> None:
    seen: list[tuple[str, int, int]] = []
    report = check(tiny_coco.manifest, None, tiny_coco.root, workers=2, progress=lambda *call: seen.append(call))
    assert report.problems == []
    assert report.n_read == {"train": 5, "test": 3}
    assert seen == [("train", i, 5) for i in range(1, 6)] + [("test", i, 3) for i in range(1, 4)]


def test_every_defect_of_a_split_is_named(tiny_index_png: SimpleNamespace) -> None:
    labels, images = (tiny_index_png.folder / k / "train" for k in ("labels", "images"))
    Image.fromarray(np.full((24, 32), 7, np.uint8)).save(labels / "frame_0.png")
    Image.fromarray(np.zeros((24, 31), np.uint8)).save(labels / "frame_1.png")
    (images / "frame_2.png").write_bytes((images / "frame_2.png").read_bytes()[:50])
    Image.fromarray(np.full((24, 32), 9, np.uint8)).save(labels / "frame_3.png")
    report = check(tiny_index_png.manifest, ["train"], tiny_index_png.root, workers=3)
    assert report.n_read == {"train": 3}
    assert len(report.problems) == 3
    for problem, said in zip(report.problems, ("value 7 is no class", "the mask is 31x24", "corrupt"), strict=True):
        assert problem.startswith("train: ")
        assert said in problem
    assert "train/frame_3: no pixel is labelled" in report.notes


def test_a_layout_that_does_not_fit_is_listed_in_full_and_other_splits_go_on(tiny_folder: SimpleNamespace) -> None:
    train = tiny_folder.folder / "train"
    for name in ("violet", "ochre"):
        (train / name).mkdir()
    shutil.rmtree(train / "red")
    report = check(tiny_folder.manifest, None, tiny_folder.root)
    assert report.n_read == {"test": 6}
    assert len(report.problems) == 3
    assert "ochre: a folder of no class" in report.problems[0]
    assert "red: no such folder; class 'red' expects it" in report.problems[1]
    assert "violet: a folder of no class" in report.problems[2]


def test_a_layout_error_shows_a_few_and_survives_another_process() -> None:
    error = LayoutError([f"file {c}" for c in "abcdefg"], "ask")
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == error.problems == tuple(f"file {c}" for c in "abcdefg")
    assert str(again).splitlines()[-3:] == [
        "  file e", "  ... and 2 more; `kc data check --all` lists them", "  How to get the data: ask",
    ]  # fmt: skip


def test_problems_of_one_reason_are_summed_up() -> None:
    problems = [f"/data/a b/{i}.png: its mask is missing; expected /x/{i}_m.png" for i in range(2975)]
    assert summed([*problems, "list.txt: 'x y' is no file", "list.txt: 'z' is no file", "other"], 2) == [
        problems[0], f"{problems[1]} (and 2,973 more like it)",
        "list.txt: 'x y' is no file", "list.txt: 'z' is no file", "other",
    ]  # fmt: skip


def test_masks_that_have_another_ending_are_one_line_with_how_to_get_the_data(
    tiny_index_png: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    text = yaml.safe_load(tiny_index_png.path.read_text())
    text["obtain"] = "make labelTrainIds with createTrainIdLabelImgs"
    for part in text["splits"].values():
        part["label_ending"] = "_labelTrainIds.png"
    tiny_index_png.path.write_text(yaml.safe_dump(text))
    with pytest.raises(LayoutError) as caught:
        open_reader(load_manifest(tiny_index_png.path), "train", tiny_index_png.root)
    first, obtain = str(caught.value).split("\n")
    assert first.endswith("frame_0_labelTrainIds.png (and 5 more like it)")
    assert obtain == "  How to get the data: make labelTrainIds with createTrainIdLabelImgs"
    arguments = ["data", "check", str(tiny_index_png.path), "--data-root", str(tiny_index_png.root)]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert said.count("its mask is missing") == 3 + 2 + 3
    assert said.count("how to get the data: make labelTrainIds") == 1
    assert main([*arguments, "--all"]) == 1
    assert capsys.readouterr().out.count("its mask is missing") == 6 + 2 + 3


def test_masks_that_are_still_packed_are_named(tiny_coco: SimpleNamespace) -> None:
    masks = tiny_coco.folder / tiny_coco.manifest.splits["train"].masks
    masks.rename(masks.with_name("elsewhere"))
    masks.with_name(f"{masks.name}.zip").write_bytes(b"")
    with pytest.raises(LayoutError, match=f"{masks}: no such folder: unpack {masks}.zip first"):
        open_reader(tiny_coco.manifest, "train", tiny_coco.root)


def test_a_missing_data_folder_is_one_problem_a_split(tiny_folder: SimpleNamespace, tmp_path: Path) -> None:
    report = check(tiny_folder.manifest, None, tmp_path / "nowhere")
    assert len(report.problems) == 2
    assert "no data in" in report.problems[0]
    assert report.n_read == {}


def test_equal_images_are_noted_within_and_between_splits(tiny_folder: SimpleNamespace) -> None:
    red = tiny_folder.folder / "train" / "red"
    shutil.copy(red / "0.png", red / "copy.png")
    with Image.open(red / "1.png") as image:  # other bytes, equal pixels
        image.save(tiny_folder.folder / "test" / "blue" / "leak.bmp")
    report = check(tiny_folder.manifest, None, tiny_folder.root, workers=2)
    assert report.problems == []
    assert report.notes == [
        "equal images: train/red/0.png and train/red/copy.png",
        "the same image in two splits: train/red/1.png and test/blue/leak.bmp",
    ]


def test_classes_without_an_image_are_noted(tiny_index_png: SimpleNamespace) -> None:
    report = check(tiny_index_png.manifest, ["val"], tiny_index_png.root)
    assert report.notes == ["val: 1 classes without an image: road"]


def test_the_real_benchmark_is_sound(shared_data: Path) -> None:
    report = check(load_manifest("coco200-panoptic"), ["test"], shared_data, limit=20)
    assert report.problems == []
    assert report.n_read == {"test": 20}
