"""`kc explain` and `kc memory search` as a user types them, on the memory of a small run."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kc.cli import main
from kc.data.transforms import image_to_tensor
from kc.encoders.load import load_encoder
from kc.memory.disk import Memory
from kc.memory.store.info import MemoryInfo
from kc.memory.vote.votes import vote
from kc.methods.regions import normalised


def kc(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert main([str(a) for a in arguments]) == status
    said = capsys.readouterr()
    return " ".join((said.err if status == 2 else said.out).split())


def test_the_rows_that_voted(
    tiny_folder: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    # At 16 x 16 pixels the plain colours of this benchmark have features of length 0.
    tiny_folder.path.write_text(yaml.safe_dump(tiny_folder.content | {"input_size": [64, 64]}))
    benchmark = ["--benchmark", tiny_folder.path, "--data-root", tiny_folder.root]
    wanted = ["--methods", "knn", "--tasks", "3", "--knn.k", "5", "--knn.vote", "rank", "--wandb", "disabled"]
    kc(capsys, "run", *benchmark, *wanted, "--out", tmp_path / "runs")
    (run,) = (tmp_path / "runs").iterdir()
    path = run / "methods" / "knn-s0" / "memory"
    memory = Memory.open(path)
    assert memory.class_names == {0: "red", 1: "green leaf", 2: "blue"}
    assert "green leaf │ 1 │ 4 │ 2" in kc(capsys, "memory", "stats", path)

    # A file: what the table says is what the memory and the vote say.
    picture = tmp_path / "mine.png"
    pixels = np.random.default_rng(5).integers(0, 256, (30, 25, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(picture)
    out = tmp_path / "why.png"
    said = kc(capsys, "explain", picture, "--run", run, "--out", out)
    with torch.no_grad():
        key = normalised(load_encoder("lite0").eval()(image_to_tensor(pixels, (64, 64))[None]).pooled)
    found = memory.search(key, 5)
    rows = memory.rows_of(found.id[0])
    lines = re.findall(r"│ (\d+) │ (\d+) │ (\S[\w ]*?) │ (\d) │ (\S+) │ – │ ([\d.]+) │ 1 │ ([\d.]+) │", said)
    assert [int(line[1]) for line in lines] == found.id[0].tolist()
    assert [line[4] for line in lines] == list(rows.sample_id)
    assert [int(line[3]) for line in lines] == (rows.task + 1).tolist()
    each = np.array([1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6])
    assert [float(line[6]) for line in lines] == (100 * each / each.sum()).round(1).tolist()
    total = vote(found, [0, 1, 2], kind="rank")[0]
    best = ("red", "green leaf", "blue")[int(total.argmax())]
    assert f"rank vote of 5 rows: {best} {100 * float(total.max() / total.sum()):.1f} %" in said
    with Image.open(out) as image:
        assert image.size[0] > 800

    assert "unknown? the nearest row has cosine 0." in said  # noise is not one of the three colours

    # A stored sample does not vote on itself, and is known with its class; an older version shows fewer classes.
    said = kc(capsys, "explain", "train/red/1.png", "--memory", path, "--k", "99", "--at", "2", "--out", out)
    assert "k 99 is clamped to the 7 rows" in said
    assert "(true class: red)" in said
    assert "its own row was left out" in said
    assert "train/red/1.png" not in said
    assert "unknown?" not in said
    assert "blue" not in said

    assert "rank vote of 5" in kc(capsys, "explain", picture, "--memory", path, "--out", out)  # k as in the run

    # Without the data there is no picture of a neighbour, but a table.
    moved = tmp_path / "moved"
    path.rename(moved)
    told: list[object] = []
    said = kc(capsys, "explain", picture, "--memory", moved, *told, "--data-root", tmp_path / "no", "--out", out)
    assert "some images cannot be shown" in said
    assert "rank vote of 5" in said
    stored = ["train/red/1.png", *told, "--data-root", tiny_folder.root, "--k", "1"]
    assert "red" in kc(capsys, "memory", "search", moved, *stored)
    said = kc(capsys, "memory", "search", moved, picture, *told, "--k", "3")
    assert f"│ 1 │ {found.id[0, 0]} │" in said
    assert f"│ 3 │ {found.id[0, 2]} │" in said
    assert "│ 4 │" not in said
    for rule, parts in (("discriminant", "+0.00 by the votes"), ("log-linear", "by the votes of its neighbours")):
        said = kc(capsys, "explain", picture, "--memory", moved, "--vote", rule, "--out", out)
        assert f"{rule} of all rows: " in said
        assert parts in said
    for arguments, text in (
        (["nothing.png", *told], "neither a file nor a sample of tiny-folder"),
        ([picture, *told, "--vote", "ranks"], "Did you mean 'rank'"),
        ([picture, *told, "--tau", "0"], "--tau 0: expected a number, above 0"),
        ([picture, *told, "--tau", ".inf"], "--tau .inf: expected a number, above 0"),
        ([picture, *told, "--rank-offset", "-1"], "--rank-offset -1: expected a number, above 0"),
        ([picture, *told, "--sharpness", "0"], "--sharpness 0: expected a number, above 0"),
        ([picture, *told, "--k", "0"], "--k 0"),
    ):
        assert text in kc(capsys, "explain", *arguments, "--memory", moved, status=2)


def test_which_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--memory DIR or --run RUN" in kc(capsys, "explain", "x.png", status=2)
    assert "holds 0 memories" in kc(capsys, "explain", "x.png", "--run", tmp_path, status=2)
    assert "IMAGE" in kc(capsys, "memory", "search", tmp_path, status=2)
    for name, info in (("m", MemoryInfo("lite0", "classification", (32, 32))), ("n", None)):
        with Memory.create(tmp_path / name, dim=2, fingerprint="lite0:1", info=info) as memory:
            memory.commit(0)
    asked = ["explain", "x.png", "--point", "1,2", "--memory"]
    assert "holds keys of whole images" in kc(capsys, *asked, tmp_path / "m", status=2)
    assert "does not say how its keys were made" in kc(capsys, *asked, tmp_path / "n", status=2)


@pytest.mark.parametrize("proposals", ["oracle", "superpixels"])
def test_a_region_of_an_image(
    tiny_index_png: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], proposals: str
) -> None:
    benchmark = ["--benchmark", tiny_index_png.path, "--data-root", tiny_index_png.root]
    wanted = ["--methods", "knn", "--tasks", "2", "--knn.k", "3", "--proposals", proposals, "--wandb", "disabled"]
    kc(capsys, "run", *benchmark, *wanted, "--out", tmp_path / "runs")
    (run,) = (tmp_path / "runs").iterdir()
    out = tmp_path / "why.png"
    said = kc(capsys, "explain", "test/frame_0", "--run", run, "--out", out, "--point", "2,3")
    assert "(true class: sky)" in said  # the top of every image is sky
    with Image.open(out) as image:
        assert image.size[0] > 800
    said = kc(capsys, "explain", "train/frame_0", "--run", run, "--out", out)
    assert "the query is stored; its own row was left out" in said
    (path,) = run.glob("methods/*/memory")
    assert "│ 1 │" in kc(capsys, "memory", "search", path, "test/frame_1", "--point", "20,2", "--k", "2")
    for arguments, text in (
        (["--point", "24,0"], "the image has 24 rows and 32 columns"),
        (["--point", "a"], "expected ROW,COLUMN"),
    ):
        assert text in kc(capsys, "explain", "test/frame_0", "--run", run, *arguments, status=2)
