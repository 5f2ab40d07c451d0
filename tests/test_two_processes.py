"""`--devices 2`: two processes learn, one memory comes out, and the scores are those of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kc.cli import main
from kc.memory.disk import Memory

ROOT = Path(__file__).parents[1]


def run(out: Path, devices: int, methods: str, images: int) -> Path:
    """Folder of a run of one process, this one, or of two that a command starts."""
    options = ["--benchmark", "digits", "--tasks", "2", "--methods", methods, "--limit_images", str(images),
               "--accelerator", "cpu", "--wandb", "disabled", "--out", str(out)]  # fmt: skip
    if devices == 1:
        assert main(["run", *options]) == 0
    else:
        command = [sys.executable, str(ROOT / "experiments" / "continual.py"), *options, "--devices", str(devices)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = out.iterdir()
    return folder


def results(folder: Path, method: str) -> dict[str, Any]:
    methods = json.loads((folder / "results.json").read_text(encoding="utf-8"))["methods"]
    return next(dict(m) for m in methods if m["name"] == method)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """knn and ncm in one process and in two. Of 55 images most tasks have an odd number, so that the sampler pads."""
    return [run(tmp_path_factory.mktemp(f"{devices}-process"), devices, "knn,ncm", 55) for devices in (1, 2)]


def rows(memory: Memory) -> list[tuple[Any, ...]]:
    """Every row but its id, sorted."""
    ids = memory.ids()
    table, keys = memory.rows_of(ids), memory.keys(ids)
    columns = (table.segment.tolist(), table.class_id.tolist(), table.task.tolist(), keys.tolist())
    return sorted(zip(table.sample_id, *columns, strict=True))


def test_knn_in_two_processes(folders: list[Path]) -> None:
    one, two = (results(folder, "knn") for folder in folders)
    assert one["matrix"] == two["matrix"]
    assert one["per_class"] == two["per_class"]
    a, b = (Memory.open(folder / "methods" / "knn-s0" / "memory") for folder in folders)
    assert rows(a) == rows(b)
    assert [v.rows for v in a.versions()] == [v.rows for v in b.versions()]
    assert len(np.unique(b.rows_of(b.ids()).sample_id)) == len(b) > 50
    assert (folders[1] / "report.html").exists()


def test_a_method_of_one_pass_is_left_to_the_first_process(folders: list[Path]) -> None:
    one, two = (results(folder, "ncm")["matrix"] for folder in folders)
    assert one == two


def test_hybrid_in_two_processes(tmp_path: Path) -> None:
    """The memory is the same row for row; the head learns from the same batches (30 images a task, nothing is padded),
    whose gradients are summed in another order."""
    both = [run(tmp_path / str(devices), devices, "hybrid", 60) for devices in (1, 2)]
    one, two = (results(folder, "hybrid")["matrix"] for folder in both)
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=0.04)  # one test image
    first, second = (Memory.open(folder / "methods" / "hybrid-s0" / "memory") for folder in both)
    assert rows(first) == rows(second)
    assert [v.rows for v in first.versions()] == [v.rows for v in second.versions()]


def test_a_foreign_launcher_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    given = ["--benchmark", "digits", "--tasks", "2", "--methods", "knn", "--devices", "2", "--accelerator", "cpu"]
    assert main(["run", *given, "--out", str(tmp_path / "out")]) == 2
    assert "RANK or LOCAL_RANK" in capsys.readouterr().err
