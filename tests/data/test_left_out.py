"""What lies in folders and lists as people really write them: read, or counted and named; never lost in silence."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kc.data.manifest import load_manifest
from kc.data.readers.base import LayoutError
from kc.data.readers.open import open_reader
from kc.data.split import build_tasks
from kc.errors import DataError
from kc.predict.examples import Examples, is_answer, is_mask
from tests.data.test_formats import benchmark, save, write

XML = "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"  # noqa: E501
GREY = np.zeros((8, 8, 3), np.uint8)


def masks(tmp_path: Path, **part: object):  # type: ignore[no-untyped-def]
    made = benchmark(tmp_path, "semantic", {"reader": "index_png"},
                     {"train": {"images": "i", "labels": "m", **part}}, ["grass"])  # fmt: skip
    save(made.folder / "i/a.png", GREY)
    save(made.folder / "m/a.png", GREY[..., 0])
    return made


@pytest.mark.parametrize("name", ["b.heic", "b.AVIF", "sub/b.png"])
def test_images_that_are_not_read_are_counted_and_named(tmp_path: Path, name: str) -> None:
    made = masks(tmp_path)
    (made.folder / "i/sub").mkdir()
    (made.folder / "i" / name).write_bytes(b"x")
    with pytest.raises(LayoutError, match=r"i: 1 .*b\."):
        open_reader(made.manifest, "train", made.root)


@pytest.mark.parametrize("ending", [".tif", ".gif", ".jfif", ".pgm"])
def test_more_formats_are_read(tmp_path: Path, ending: str) -> None:
    made = masks(tmp_path)
    (made.folder / "i/a.png").unlink()
    Image.fromarray(GREY).convert("L").save(made.folder / f"i/a{ending}", format="JPEG" if ending == ".jfif" else None)
    assert open_reader(made.manifest, "train", made.root).read(0).image.shape == (8, 8, 3)


def test_endings_of_masks_in_any_case(tmp_path: Path) -> None:
    made = masks(tmp_path)
    (made.folder / "m/a.png").rename(made.folder / "m/a.PNG")
    assert len(open_reader(made.manifest, "train", made.root)) == 1


@pytest.mark.parametrize("line", ["my photo", "my photo.png", "\ufeffmy photo\r"])
def test_lists_with_blanks_endings_and_marks(tmp_path: Path, line: str) -> None:
    made = masks(tmp_path, names="list.txt")
    for folder in "im":
        (made.folder / folder / "a.png").rename(made.folder / folder / "my photo.png")
    (made.folder / "list.txt").write_text(line + "\n", encoding="utf-8", newline="")
    assert open_reader(made.manifest, "train", made.root).sample_ids[0].startswith("train/my photo")


def test_names_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    made = masks(tmp_path)
    with open(os.path.join(os.fsencode(made.folder), b"i", b"\xff.png"), "wb") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"i/\\xff\.png.*not UTF-8"):
        open_reader(made.manifest, "train", made.root)


def test_voc_names_each_image_that_has_no_xml_or_shares_it(tmp_path: Path) -> None:
    made = benchmark(tmp_path, "classification", {"reader": "voc_xml"},
                     {"train": {"images": "i", "annotations": "x"}}, ["cat"])  # fmt: skip
    for name in ("a.jpg", "a.png", "b.jpg"):
        save(made.folder / "i" / name, GREY)
    write(made.folder / "x/a.xml", XML)
    with pytest.raises(LayoutError) as caught:
        open_reader(made.manifest, "train", made.root)
    assert len(caught.value.problems) == 2
    assert "1 images have no XML file (i/b.jpg)" in caught.value.problems[1]


def test_accents_are_one_letter_or_two(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "cr\u00e8me") for form in ("NFC", "NFD"))
    for name, folder in ((composed, apart), (apart, composed)):
        made = benchmark(tmp_path / folder / "x", "classification", {"reader": "folder"},
                         {"train": {"path": "."}}, [name, "tea"]) if (tmp_path / folder / "x").mkdir(parents=True) is None else None  # fmt: skip  # noqa: E501
        assert made is not None
        save(made.folder / folder / "0.png", GREY)
        save(made.folder / "tea/0.png", GREY)
        assert len(open_reader(made.manifest, "train", made.root)) == 2
        order = tmp_path / f"{len(name)}.txt"
        order.write_text(f"\ufefftea\r\n{folder}\r\n", encoding="utf-8")
        assert [c for t in build_tasks(made.manifest, 2, None, order) for c in t.class_ids] == [1, 0]


def test_a_manifest_may_start_with_a_mark_and_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks(tmp_path)
    text = (tmp_path / "tiny.yaml").read_text()
    (tmp_path / "tiny.yaml").write_text("\ufeff" + text.replace("\n", "\r\n"), encoding="utf-8", newline="")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_manifest("~/tiny.yaml").name == "tiny"


def test_examples_pair_masks_by_any_spelling(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    for number, name in enumerate(("a.mask.png", "a.mask.PNG", "a.Mask.png", "a.jpg.mask.png")):
        save(tmp_path / f"{number}/a.jpg", GREY)
        save(tmp_path / f"{number}" / name, mask)
        (one,) = Examples(tmp_path / f"{number}")
        assert one.mask is not None
        assert one.mask.sum() == 32
    save(tmp_path / "rgba/a.jpg", GREY)
    save(tmp_path / "rgba/a.mask.png", np.dstack([mask, mask, mask, np.full_like(mask, 255)]))
    assert Examples(tmp_path / "rgba")[0].mask.sum() == 32
    save(tmp_path / "lost/a.jpg", GREY)
    save(tmp_path / "lost/b.mask.png", mask)
    with pytest.raises(DataError, match=r"b\.mask\.png.*no picture"):
        Examples(tmp_path / "lost")
    (tmp_path / "0/b.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 \.heic"):
        Examples(tmp_path / "0")


def test_answers_of_predict_are_no_questions(tmp_path: Path) -> None:
    for name in ("out/a.png.png", "out/a.png.json", "b.png", "b.json", "c.jpg.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    assert is_answer(tmp_path, "out/a.png.png")
    assert not is_answer(tmp_path, "b.png")  # a picture with a LabelMe file
    assert not is_answer(tmp_path, "c.jpg.png")
    assert is_mask("x/A.MASK.PNG")
    assert not is_mask("mask.png")


@pytest.mark.parametrize("name", ["__MACOSX/._a.png", "@eaDir/a.png", ".DS_Store"])
def test_what_operating_systems_leave_changes_nothing(tmp_path: Path, name: str) -> None:
    made = masks(tmp_path)
    foreign = made.folder / "i" / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"x")
    assert len(open_reader(made.manifest, "train", made.root)) == 1
    (tmp_path / "f").mkdir()
    classes = benchmark(tmp_path / "f", "classification", {"reader": "folder"}, {"train": {"path": "t"}}, ["cat"])
    save(classes.folder / "t/cat/a.png", GREY)
    foreign = classes.folder / "t" / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"x")
    assert len(open_reader(classes.manifest, "train", classes.root)) == 1
