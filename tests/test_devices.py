"""Two processes give the matrices of one, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from kc.cli import main

ROOT = Path(__file__).parents[1]


def matrices(out: Path, *given: str | Path) -> dict[str, Any]:
    """Matrix of each method: of two processes that a command starts, or of this one."""
    options = [str(g) for g in (*given, "--accelerator", "cpu", "--wandb", "disabled", "--epochs", "2", "--out", out)]
    if "--devices" in options:
        command = [sys.executable, str(ROOT / "experiments" / "continual.py"), *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        assert main(["run", *options]) == 0
    (folder,) = out.iterdir()
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {m["name"]: np.array(m["matrix"], dtype=float) for m in results["methods"]}


def test_two_processes_give_the_numbers_of_one(tiny_folder: SimpleNamespace, tmp_path: Path) -> None:
    (tiny_folder.root / "tiny-folder" / "train" / "red" / "3.png").unlink()  # the last batch of one process is empty
    given = ["--benchmark", tiny_folder.path, "--data-root", tiny_folder.root, "--tasks", "3", "--batch-size", "2",
             "--methods", "replay,knn,er,der++,si,lwf,icarl,hybrid", "--encoder", "mlp:32x1", "--train", "full",
             "--encoder-lr", "1", "--exemplars", "6"]  # fmt: skip
    one, two = matrices(tmp_path / "one", *given), matrices(tmp_path / "two", *given, "--devices", "2")
    assert one.keys() == two.keys()
    for method, matrix in one.items():
        np.testing.assert_allclose(two[method], matrix, atol=1e-9, err_msg=method)


def test_so_do_methods_of_maps(tiny_index_png: SimpleNamespace, tmp_path: Path) -> None:
    given = ["--benchmark", tiny_index_png.path, "--data-root", tiny_index_png.root, "--split", "2-1",
             "--batch-size", "2", "--methods", "ilt,mib,plop,ssul"]  # fmt: skip
    one, two = matrices(tmp_path / "one", *given), matrices(tmp_path / "two", *given, "--devices", "2")
    for method, matrix in one.items():
        np.testing.assert_allclose(two[method], matrix, atol=1e-3, err_msg=method)
