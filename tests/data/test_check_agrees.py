"""`kc data check` and `kc run` agree: what one refuses, so does the other, in the same words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kc.cli import main

RED, MASK, JSON = "train/red/0.png", "labels/train/frame_0.png", "annotations/train.json"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123\n"


def linked(target: str) -> Callable[[Path], None]:
    def change(top: Path) -> None:
        (top / RED).unlink()
        os.symlink(target, top / RED)

    return change


def listed(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def write(top: Path) -> None:
        content = json.loads((top / JSON).read_text())
        change(content)
        (top / JSON).write_text(json.dumps(content))

    return write


def masked(mask: np.ndarray) -> Callable[[Path], None]:
    return lambda top: Image.fromarray(mask).save(top / MASK)


KINDS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a class folder that is a link within the data": (
        "folder",
        lambda top: ((top / "train/red").rename(top / "reds"), (top / "train/red").symlink_to("../reds")),
        "",
    ),
    "nothing": ("folder", lambda top: None, ""),
    "hidden files": ("folder", lambda top: (top / "train/__MACOSX/red").mkdir(parents=True), ""),
    "a pipe that no class names": ("folder", lambda top: os.mkfifo(top / "pipe"), ""),
    "an empty file": ("folder", lambda top: (top / RED).write_bytes(b""), "the file is empty"),
    "a pointer of Git LFS": ("folder", lambda top: (top / RED).write_bytes(LFS), "git lfs pull"),
    "a web page": ("folder", lambda top: (top / RED).write_bytes(b"<!DOCTYPE html><html>"), "a web page"),
    "HEIC": ("folder", lambda top: (top / "train/red/x.heic").write_bytes(b"\0"), ".heic images are not read"),
    "a name that is not UTF-8": (
        "folder",
        lambda top: Path(os.fsdecode(os.fsencode(top / "train/red") + b"/\xff.png")).write_bytes(b""),
        "not UTF-8",
    ),
    "a link to nothing outside": ("folder", linked("/nowhere/0.png"), "points to /nowhere/0.png, which does not exist"),
    "a link to nothing inside": ("folder", linked("gone.png"), "gone.png: the image is missing"),
    "a link to itself": ("folder", linked("0.png"), "0.png: cannot be read (Too many levels of symbolic links)"),
    "a pipe among images": ("folder", lambda top: os.mkfifo(top / "train/red/7.png"), "7.png: the image is missing"),
    "a mask of another size": ("png", masked(np.zeros((9, 9), np.uint8)), "9x9"),
    "a class that is not there": ("png", masked(np.full((24, 32), 77, np.uint8)), "77"),
    "a mask of colours": ("png", masked(np.full((24, 32, 3), 1, np.uint8)), "frame_0.png"),
    "no mask": ("png", lambda top: (top / MASK).unlink(), "frame_0"),
    "an unknown category": (
        "coco",
        listed(lambda j: j["annotations"][0]["segments_info"][0].update(category_id=99)),
        "has category 99",
    ),
    "a size that no pixel has": ("coco", listed(lambda j: j["images"][0].update(height=99)), ""),
    "an annotation of no image": (
        "coco",
        listed(lambda j: j["annotations"][0].update(image_id=999)),
        "is of image id 999, which is not in its `images`",
    ),
    "a segment without pixels": (
        "coco",
        listed(lambda j: j["annotations"][0]["segments_info"].append({"id": 8, "category_id": 1})),
        "segment 8 of the annotation file has no pixel",
    ),
    "a list for an object": ("coco", lambda top: (top / JSON).write_text("[]"), "expected an object with images"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_check_and_run_agree(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of, change, said = KINDS[kind]
    tiny = request.getfixturevalue({"folder": "tiny_folder", "png": "tiny_index_png", "coco": "tiny_coco"}[of])
    change(tiny.folder)
    data = ["--benchmark", str(tiny.path), "--data-root", str(tiny.root)]
    checked = main(["data", "check", str(tiny.path), *data[2:]])
    report = capsys.readouterr().out
    options = ["--tasks", "2", "--methods", "finetune", "--epochs", "1", "--wandb", "disabled", "--accelerator", "cpu"]
    ran = main(["run", *data, *options, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert (checked, ran) == ((1, 2) if said else (0, 0)), (report, error)
    assert said in report
    assert said in error
