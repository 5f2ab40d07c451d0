"""`kc data` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from kc.cli import main
from kc.data.manifest import manifest_names


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["data", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_list_names_every_benchmark_and_whether_its_data_is_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, _ = run(capsys, "list", "--data-root", tmp_path)
    assert status == 0
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
    assert set(manifest_names()) <= set(lines)
    assert lines["voc2012"][1:3] == ["semantic", "21"]
    assert lines["imagenet-r"][-1] == lines["camvid"][-1] == "no"
    assert lines["digits"][-1] == "yes"
    _, out, _ = run(capsys, "list", "--kind", "panoptic", "--data-root", tmp_path)
    assert "coco-panoptic" in out
    assert "camvid" not in out


def test_show_says_how_to_get_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = run(capsys, "show", "cityscapes", "--data-root", tmp_path)
    assert status == 0
    assert "csCreateTrainIdLabelImgs" in out
    assert f"data           not in {tmp_path}" in out
    assert "13  car  [thing]" in out


def test_check_reports_all_and_fails(capsys: pytest.CaptureFixture[str], tiny_folder: SimpleNamespace) -> None:
    status, out, _ = run(capsys, "check", tiny_folder.path, "--data-root", tiny_folder.root)
    assert (status, out) == (0, "tiny-folder: read 12 train, 6 test; 0 problems, 0 notes\n")
    for i in (0, 1):
        (tiny_folder.folder / "train" / "red" / f"{i}.png").write_bytes(b"no image")
    status, out, _ = run(capsys, "check", tiny_folder.path, "--data-root", tiny_folder.root, "--num-workers", 2)
    assert status == 1
    assert out.count("problem: train: ") == 2
    assert out.endswith("tiny-folder: read 10 train, 6 test; 2 problems, 0 notes\n")


def test_check_strict_counts_notes(capsys: pytest.CaptureFixture[str], tiny_index_png: SimpleNamespace) -> None:
    arguments = ("check", tiny_index_png.path, "--data-root", tiny_index_png.root, "--part", "val")
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert "note: val: 1 classes without an image: road" in out
    assert run(capsys, *arguments, "--strict")[0] == 1


def test_stats_prints_tables_and_writes_json(
    capsys: pytest.CaptureFixture[str], tiny_index_png: SimpleNamespace, tmp_path: Path
) -> None:
    out_file = tmp_path / "deep" / "stats.json"
    status, out, _ = run(
        capsys, "stats", tiny_index_png.path, "--data-root", tiny_index_png.root, "--split", "2-1", "--out", out_file
    )
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["3", "road", "2", "480", "10.42%"] in rows
    assert next(row for row in rows if row[:2] == ["2", "tree"] and len(row) == 9) == [
        "2", "tree", "2", "480", "10.42%", "2", "2", "2", "1"
    ]  # fmt: skip
    content = json.loads(out_file.read_text())
    assert content["steps"]["disjoint"][2]["sample_ids"] == ["train/frame_2", "train/frame_5"]
    assert [p.name for p in out_file.parent.iterdir()] == ["stats.json"]


def test_preview_writes_a_picture(
    capsys: pytest.CaptureFixture[str], tiny_coco: SimpleNamespace, tmp_path: Path
) -> None:
    out_file = tmp_path / "sheet.png"
    status, out, _ = run(
        capsys, "preview", tiny_coco.path, "--data-root", tiny_coco.root, "--images", 4, "--out", out_file
    )
    assert status == 0
    with Image.open(out_file) as image:
        assert f"{image.width}x{image.height} pixels" in out
        image.load()
    status, _, err = run(capsys, "preview", tiny_coco.path, "--data-root", tiny_coco.root, "--out", tmp_path / "a.jpg")
    assert status == 2
    assert "must end in .png" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chek", "camvid"], "Did you mean 'check'"),
        (["show", "camvod"], "unknown benchmark 'camvod'. Did you mean 'camvid'"),
        (["check", "coco200-panoptic", "--part", "val"], "coco200-panoptic has no part 'val'; it has train, test"),
        (["stats", "camvid", "--split", "5-9"], "unknown split of camvid '5-9'"),
        (["stats", "camvid", "--tasks", "0"], "--tasks 0"),
        (["stats"], "BENCHMARK"),
        (["preview", "camvid", "--data-root", "/nowhere"], "camvid: no data in /nowhere/camvid"),
    ],
)
def test_wrong_arguments_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert said in err


def test_it_starts_without_torch() -> None:
    code = "import sys; from kc.cli import main; main(['data', 'show', 'digits']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
