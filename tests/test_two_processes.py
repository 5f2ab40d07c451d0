"""`--devices 2`: two processes learn, one memory comes out, and the scores are those of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kc.memory.disk import Memory

ROOT = Path(__file__).parents[1]


def run(
    out: Path, devices: int, method: str = "knn", status: int = 0, images: int = 55, **environment: str
) -> subprocess.CompletedProcess[str]:
    # 55 images: an odd number in most tasks, so that the sampler pads; of 60, the tasks have 30 each.
    command = [sys.executable, ROOT / "experiments" / "continual.py", "--benchmark", "digits", "--tasks", "2",
               "--methods", method, "--limit_images", str(images), "--accelerator", "cpu", "--devices", str(devices),
               "--out", out]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def rows(memory: Memory) -> list[tuple[Any, ...]]:
    """Every row but its id, sorted."""
    ids = memory.ids()
    table, keys = memory.rows_of(ids), memory.keys(ids)
    columns = (table.segment.tolist(), table.class_id.tolist(), table.task.tolist(), keys.tolist())
    return sorted(zip(table.sample_id, *columns, strict=True))


def test_knn_in_two_processes(tmp_path: Path) -> None:
    folders = []
    for devices in (1, 2):
        run(tmp_path / str(devices), devices)
        (folder,) = (tmp_path / str(devices)).iterdir()
        folders.append(folder)
    one, two = (json.loads((f / "results.json").read_text())["methods"][0] for f in folders)
    assert one["matrix"] == two["matrix"]
    assert one["per_class"] == two["per_class"]
    a, b = (Memory.open(f / "methods" / "knn-s0" / "memory") for f in folders)
    assert rows(a) == rows(b)
    assert [v.rows for v in a.versions()] == [v.rows for v in b.versions()]
    assert len(np.unique(b.rows_of(b.ids()).sample_id)) == len(b) > 50
    assert (folders[1] / "report.html").exists()


def test_hybrid_in_two_processes(tmp_path: Path) -> None:
    """The memory is the same row for row; the head learns from the same batches, whose gradients are summed in another
    order."""
    folders = []
    for devices in (1, 2):
        run(tmp_path / str(devices), devices, method="hybrid", images=60)
        (folder,) = (tmp_path / str(devices)).iterdir()
        folders.append(folder)
    one, two = (json.loads((f / "results.json").read_text())["methods"][0] for f in folders)
    for a, b in zip(one["matrix"], two["matrix"], strict=True):
        assert a == pytest.approx(b, abs=0.04)  # one test image
    first, second = (Memory.open(f / "methods" / "hybrid-s0" / "memory") for f in folders)
    assert rows(first) == rows(second)
    assert [v.rows for v in first.versions()] == [v.rows for v in second.versions()]


def test_a_method_of_one_pass_is_left_to_the_first_process(tmp_path: Path) -> None:
    matrices = []
    for devices in (1, 2):
        run(tmp_path / str(devices), devices, method="ncm")
        (folder,) = (tmp_path / str(devices)).iterdir()
        matrices.append(json.loads((folder / "results.json").read_text())["methods"][0]["matrix"])
    assert matrices[0] == matrices[1]


def test_a_foreign_launcher_is_told_so(tmp_path: Path) -> None:
    done = run(tmp_path / "out", 2, status=2, RANK="1")
    assert "starts its processes itself" in done.stderr
