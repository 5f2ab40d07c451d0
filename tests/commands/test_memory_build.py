"""`kc memory build` as a user types it: from labels, from names, with a fallback; twice is once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kc.cli import main
from kc.memory.disk import Memory


def kc(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert main(["memory", "build", *map(str, arguments)]) == status
    said = capsys.readouterr()
    return " ".join((said.err if status == 2 else said.out).split())


def saved(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder


def test_from_a_benchmark(tiny_coco: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "memory"
    asked = (path, "--benchmark", tiny_coco.path, "--data-root", tiny_coco.root)
    assert "20 new rows, 20 in all" in kc(capsys, *asked)
    memory = Memory.open(path)
    # Two things, grass and sky in each of five images; the crowd of the second is a segment too.
    assert np.bincount(memory.labels().class_id)[[1, 2, 18, 90, 200]].tolist() == [4, 4, 2, 5, 5]
    assert set(memory.rows_of(memory.ids()).source) == {"tiny-coco"}
    assert memory.fingerprint.endswith("+oracle+pooled")
    assert memory.class_names[18] == "bird"
    assert "0 new rows, 20 in all" in kc(capsys, *asked)
    assert "holds keys of" in kc(capsys, *asked, "--keys", "masked", status=2)


def test_from_a_classification_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "memory"
    assert "6 new rows" in kc(capsys, path, "--benchmark", "digits", "--limit-images", 6)
    assert Memory.open(path).dim == 1280


def test_from_images_names_and_a_fallback(
    tmp_path: Path, dino_folder: Path, sam_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights find what they find; a name that Grounding DINO never answers with is taken from the fallback."""
    images = saved(tmp_path / "images", "a.png", "deep/b.png")
    fallback = saved(tmp_path / "more", "cat/1.png", "red_panda/1.png", "sky/1.png", "dog/1.png")
    (tmp_path / "names.txt").write_text("cat\nred panda\nsky\ndog\n")
    path = tmp_path / "memory"
    proposals = f"grounded-sam:{dino_folder},{sam_folder}"
    asked = (path, "--images", images, "--names", tmp_path / "names.txt", "--proposals", proposals)
    kc(capsys, *asked)
    memory = Memory.open(path)
    rows = memory.rows_of(memory.ids())
    assert len(memory) > 0
    assert set(rows.sample_id) <= {"a.png", "deep/b.png"}
    assert set(rows.source) == {"images"}
    assert memory.class_names == {0: "cat", 1: "red panda", 2: "sky", 3: "dog"}
    lacking = {"cat", "red panda", "sky", "dog"} - {memory.class_names[c] for c in rows.class_id}
    assert lacking
    said = kc(capsys, *asked, "--fallback", fallback)
    assert "0 new rows" in said
    memory = Memory.open(path)
    added = {s for s in memory.rows_of(memory.ids()).source if s != "images"}
    assert added <= {f"fallback:{name}" for name in lacking}
    assert f"for {len(added)} names without one" in said
    before = len(memory)
    kc(capsys, *asked, "--fallback", fallback)
    assert len(Memory.open(path)) == before
    assert not [p for p in path.rglob("*") if p.suffix in (".png", ".jpg")]


def test_a_fallback_of_class_folders_for_a_benchmark(
    tiny_coco: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One image holds cats, grass and sky; dogs come from the fallback, birds from nowhere."""
    fallback = saved(tmp_path / "more", "Dog/1.png", "Dog/2.png", "cat/1.png")
    path = tmp_path / "memory"
    said = kc(capsys, path, "--benchmark", tiny_coco.path, "--data-root", tiny_coco.root, "--limit-images", 1,
              "--fallback", fallback)  # fmt: skip
    assert "fallback: 2 rows for 1 names without one: dog 2" in said
    assert "still without a row: bird" in said
    assert len(Memory.open(path).ids(source="fallback:dog")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to build from"),
        (["--benchmark", "coco200"], "coco200-panoptic"),
        (["--benchmark", "digits", "--keys", "poled"], "'pooled'"),
        (["--benchmark", "digits", "--encoder", "lite"], "'lite0'"),
        (["--benchmark", "digits", "--purity", "0"], "above 0"),
        (["--benchmark", "digits", "--proposals", "sam:/no/where"], "there is no folder '/no/where'"),
        (["--benchmark", "digits", "--names", "NAMES"], "--names goes with --images"),
        (["--images", "FOLDER", "--names", "NAMES"], "add --proposals grounded-sam"),
        (["--images", "/no/where"], "no such folder"),
        (["--benchmark", "digits", "--fallback", "FOLDER"], "has no folders of classes"),
    ],
)
def test_what_cannot_work_is_refused_before_a_memory_is_made(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "folder", "1.png")
    (tmp_path / "names.txt").write_text("cat\n")
    places = {"FOLDER": tmp_path / "folder", "NAMES": tmp_path / "names.txt"}
    given = [places.get(a, a) for a in arguments]
    assert message in kc(capsys, tmp_path / "memory", *given, status=2)
    assert not (tmp_path / "memory").exists()


def test_names_that_are_twice_or_other_than_before(
    tmp_path: Path, dino_folder: Path, sam_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = saved(tmp_path / "images", "a.png")
    names = tmp_path / "names.txt"
    asked = (tmp_path / "memory", "--images", images, "--names", names, "--proposals",
             f"grounded-sam:{dino_folder},{sam_folder}")  # fmt: skip
    names.write_text("cat\nsky\ncat\n")
    assert "cat stand there twice" in kc(capsys, *asked, status=2)
    names.write_text("\n")
    assert "no name" in kc(capsys, *asked, status=2)


def test_other_actions_do_not_take_what_build_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "stats", str(tmp_path), "--keys", "masked"]) == 2
    assert "unknown option --keys" in capsys.readouterr().err
