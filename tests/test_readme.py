"""What the README shows is run: the ten-line manifest and the module that trains on it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_manifest_and_the_module_run(tmp_path: Path) -> None:
    manifest = block("yaml")
    assert len(manifest.strip().splitlines()) == 10
    (tmp_path / "my-fruit.yaml").write_text(manifest, encoding="utf-8")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("apple", "pear", "plum", "quince"):
            folder = tmp_path / "my-fruit" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    code = block("python") + "\nprint([t.class_names for t in data.tasks], trainer.global_step)\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[('apple', 'pear'), ('plum', 'quince')] 2"
    command = [
        sys.executable,
        str(ROOT / "experiments" / "continual.py"),
        "--benchmark",
        "my-fruit.yaml",
        "--tasks",
        "2",
    ]
    command += ["--data-root", ".", "--methods", "knn,ncm", "--wandb", "disabled", "--out", "runs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/*-my-fruit/results.json"))) == 1
