"""Teaching names and forgetting them: what is stored, what changes, what is left in the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kc.cli import main
from kc.errors import DataError, KcError, UnknownNameError
from kc.memory.disk import Memory
from kc.memory.store import manifest as manifests
from kc.predict.edit import forget
from kc.predict.examples import Examples
from kc.predict.opening import open_memory

NAME = 'Salat, "gemischt" 猫'


def texture(kind: int, size: int = 96) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Stripes of two directions: plain to see, and no photograph needed."""
    y, x = np.mgrid[:size, :size]
    wave = np.sin((x if kind else y) / (2.0 if kind else 5.0))
    color = np.array((220, 60, 40) if kind else (40, 90, 220))
    noise = np.random.default_rng(kind).integers(-10, 11, (size, size, 3))
    return np.clip(color * (0.6 + 0.4 * wave[..., None]) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A folder with a whole picture, one with a mask, and a picture of both things side by side."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    Image.fromarray(texture(0)).save(first / "a.png")
    both = np.concatenate([texture(0), texture(1)], axis=1)
    Image.fromarray(both).save(second / "b é.png")
    mask = np.zeros(both.shape[:2], np.uint8)
    mask[:, 96:] = 1
    Image.fromarray(mask).save(second / "b é.mask.png")
    Image.fromarray(np.concatenate([texture(1), texture(0)], axis=1)).save(tmp_path / "new.png")
    return first, second, tmp_path / "new.png"


def share(memory: Path, picture: Path, name: str) -> tuple[float, float]:
    """Of the left and the right half of a picture, the share of pixels that are called `name`."""
    said = open_memory(memory).predict(np.asarray(Image.open(picture)))
    ids = [i for i, n in said.names.items() if n == name]
    assert said.semantic is not None
    hit = np.isin(said.semantic, ids)
    half = hit.shape[1] // 2
    return float(hit[:, :half].mean()), float(hit[:, half:].mean())


def test_a_name_is_taught_seen_and_erased(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, new = folders
    memory = tmp_path / "memory"
    told = ["--memory", str(memory)]
    assert main(["remember", str(first), "--name", "waves", *told, "--size", "96"]) == 0
    assert share(memory, new, "waves") == (1.0, 1.0)
    assert main(["remember", str(second), "--name", NAME, *told]) == 0
    left, right = share(memory, new, NAME)
    assert left > 0.9
    assert right < 0.2
    stored = Memory.open(memory)
    assert stored.class_names == {0: "waves", 1: NAME}
    rows = stored.rows_of(stored.ids(class_id=[1]))
    assert len(rows) > 20
    assert all(sample.startswith(f"remembered/{NAME}/b é.png ") for sample in rows.sample_id)
    assert [v.task for v in stored.versions()] == [0, 1]

    # The same pictures again add nothing.
    before = len(stored)
    assert main(["remember", str(second), "--name", NAME, *told]) == 0
    assert len(Memory.open(memory)) == before
    assert f"{len(rows)} were there already" in " ".join(capsys.readouterr().out.split())

    assert main(["forget", NAME, *told]) == 0
    said = capsys.readouterr().out
    assert f"{len(rows)} rows" in said
    assert "are in none of" in said
    assert share(memory, new, "waves") == (1.0, 1.0)
    for file in (p for p in memory.rglob("*") if p.is_file()):
        assert b"gemischt" not in file.read_bytes()
    assert main(["forget", NAME, *told]) == 2
    assert "unknown name" in capsys.readouterr().err


def test_what_lies_outside_may_have_a_name(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, second, new = folders
    told = ["--memory", str(tmp_path / "m"), "--size", "96", "--proposals", "felzenszwalb", "--keys", "masked"]
    assert main(["remember", str(second), "--name", "fine", "--outside", "rest", *told]) == 0
    left, right = share(tmp_path / "m", new, "fine")
    assert left > 0.8
    assert right < 0.2
    assert Memory.open(tmp_path / "m").class_names == {0: "fine", 1: "rest"}
    assert main(["remember", str(second), "--name", "fine", *told]) == 0  # the flags that made it may stand
    other = [*told[:-1], "pooled"]
    assert main(["remember", str(second), "--name", "fine", *other]) == 2  # its keys are what they are


def test_outside_is_in_the_same_commit(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, second, _ = folders
    told = ["--memory", str(tmp_path / "m"), "--size", "96", "--outside", "rest"]
    for _ in range(2):
        assert main(["remember", str(second), "--name", "fine", *told]) == 0
        memory = Memory.open(tmp_path / "m")
        assert memory.class_names == {0: "fine", 1: "rest"}
        assert [v.seq for v in memory.versions()] == [1] == [manifests.load(tmp_path / "m").number]
        rows = memory.rows_of(memory.ids(retired=True))
        pictures = [name.rpartition(" ")[2] for name in rows.sample_id]
        assert len(set(zip(pictures, rows.segment.tolist(), strict=True))) == len(rows)


def test_whole_images_without_regions(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    first, second, new = folders
    told = ["--memory", str(tmp_path / "m")]
    assert main(["remember", str(first), "--name", "waves", *told, "--proposals", "none"]) == 0
    assert main(["remember", str(second), "--name", "red", *told]) == 0
    image = np.asarray(Image.open(new))[:, :96]
    assert open_memory(tmp_path / "m").predict(image).ranked()[0][0] == "red"


def test_a_mask_smaller_than_any_region_is_a_region(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "dot"
    folder.mkdir()
    Image.fromarray(texture(0)).save(folder / "a.png")
    (folder / "boxes.csv").write_text("image,x,y,width,height\na.png,40,40,2,2\n")
    for _ in range(2):
        assert main(["remember", str(folder), "--name", "dot", "--memory", str(tmp_path / "m")]) == 0
    assert "1 masks were smaller than any region" in " ".join(capsys.readouterr().out.split())
    assert len(Memory.open(tmp_path / "m")) == 1


def test_name_and_rows_are_one_commit(
    folders: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, _ = folders
    memory = tmp_path / "m"
    command = ["remember", str(first), "--name", "waves", "--memory", str(memory), "--size", "96"]
    with monkeypatch.context() as stop:
        stop.setattr(Memory, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command) == 130
    assert Memory.open(memory).class_names == {}
    assert len(Memory.open(memory)) == 0
    assert main(command) == 0
    n_rows = len(Memory.open(memory))
    assert n_rows > 20
    assert manifests.load(memory).number == 1
    assert main(command) == 0  # a repetition is no commit
    assert [v.seq for v in Memory.open(memory).versions()] == [1] == [manifests.load(memory).number]
    with monkeypatch.context() as stop:
        stop.setattr(Memory, "_erase", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["forget", "waves", "--memory", str(memory)]) == 130
    assert len(Memory.open(memory)) == n_rows
    assert Memory.open(memory).class_names == {0: "waves"}
    assert forget(memory, "waves").proof
    assert manifests.load(memory).number == 2
    assert Memory.open(memory).class_names == {}
    Memory.open(memory).verify()
    with pytest.raises(UnknownNameError):
        forget(memory, "waves")
    with pytest.raises(KcError, match="add one with kc remember"):
        open_memory(memory).predict(texture(0))


def test_boxes_and_masks_are_read_as_written(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png", "d, e.png"):
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "boxes.csv").write_text('image,x,y,width,height\n"d, e.png",1,2,3,2\n"d, e.png",6,0,2,1\n')
    rgba = np.zeros((6, 8, 4), np.uint8)
    rgba[0, 0] = (0, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "b.mask.png")
    polygon = {"image_id": 7, "id": 1, "category_id": 3, "segmentation": [[0, 0, 4, 0, 4, 6, 0, 6]]}
    content = {"images": [{"id": 7, "file_name": "c.png"}], "annotations": [polygon]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    a, b, c, d = list(Examples(tmp_path))
    assert a.mask is None
    assert b.mask is not None
    assert np.argwhere(b.mask).tolist() == [[0, 0]]
    assert c.mask is not None
    assert c.mask.sum() == 24
    assert c.mask[:, :4].all()
    wanted = np.zeros((6, 8), bool)
    wanted[2:4, 1:4] = True
    wanted[0, 6:] = True
    assert d.mask is not None
    assert (d.mask == wanted).all()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("boxes.csv", "image,x,y\na.png,1,2\n", "must name the columns"),
        ("boxes.csv", "image,x,y,width,height\nz.png,1,1,1,1\n", "no picture 'z.png'"),
        ("boxes.csv", "image,x,y,width,height\na.png,1,1,1,wide\n", "line 2: expected image,x,y,width,height"),
        ("boxes.csv", "image,x,y,width,height\na.png,90,1,1,1\n", "is not in the picture of 8x6"),
        ("annotations.json", "{}", "not a COCO file"),
        ("a.mask.png", "no picture", "cannot read the mask"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, file: str, text: str, said: str) -> None:
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=said):
        list(Examples(tmp_path))


def test_one_image_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("photo", "other"):
        Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(tmp_path / f"{name}.png")
    mask = np.zeros((10, 20), np.uint8)
    mask[2:4] = 255
    Image.fromarray(mask).save(tmp_path / "photo.mask.png")
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (shown,) = Examples(tmp_path / "photo.png")
    assert shown.file == "photo.png"
    assert shown.mask is not None
    assert shown.mask.sum() == 40
    for file, said in (("photo.mask.png", "give the image"), ("x.heic", "HEIC")):
        with pytest.raises(DataError, match=said):
            list(Examples(tmp_path / file))
    for command in ("remember", "predict"):
        assert main([command, str(tmp_path / "nothing.png"), "--memory", str(tmp_path / "m")]) == 2
        assert "nothing.png: no such image or folder" in capsys.readouterr().err
    assert main(["remember", str(tmp_path / "photo.png"), "--memory", str(tmp_path / "m")]) == 2
    assert "--name" in capsys.readouterr().err


def test_masks_must_fit_and_show_something(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image"):
        list(Examples(tmp_path))
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.ones((6, 9), np.uint8)).save(tmp_path / "a.mask.png")
    with pytest.raises(DataError, match="9x6"):
        list(Examples(tmp_path))
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / "a.mask.png")
    with pytest.raises(DataError, match="is empty"):
        list(Examples(tmp_path))


def test_shapes_of_labelme_are_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.full((8, 10, 3), 50, np.uint8)).save(tmp_path / f"{name}.png")
    shapes = [
        {"label": "x", "points": [[6.0, 5.0], [2.0, 1.0]], "shape_type": "rectangle"},
        {"label": "andere, ä", "points": [[0, 7], [1, 7], [1, 6]], "shape_type": "polygon"},
    ]
    content = {"imageHeight": 8, "imageWidth": 10, "imagePath": "a.png", "shapes": shapes}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    first, second = list(Examples(tmp_path))
    wanted = np.zeros((8, 10), bool)
    wanted[1:6, 2:7] = True
    wanted[7, 0:2] = wanted[6, 1] = True
    assert first.mask is not None
    assert (first.mask == wanted).all()
    assert second.mask is None
    circle = {"label": "x", "points": [[4, 4], [6, 4]], "shape_type": "circle"}
    path.write_text(json.dumps(content | {"shapes": [circle]}))
    mask = Examples(tmp_path)[0].mask
    assert mask is not None
    assert mask[4, 2:7].all()
    assert not mask[4, [1, 7]].any()
    assert not mask[1].any()
    for broken, said in (
        ({"shapes": [{"label": "x", "points": [[1, 1]], "shape_type": "point"}]}, "a 'point' has no area"),
        ({"imageWidth": 11}, "its picture is said to be 11x8"),
        ({"shapes": 3}, "not a LabelMe file"),
    ):
        path.write_text(json.dumps(content | broken))
        with pytest.raises(DataError, match=said):
            list(Examples(tmp_path))
