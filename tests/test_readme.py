"""What the README shows is run: its manifest, a module that trains on it, its commands. It has 200 lines at most."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
MODULE = """
import torch
import lightning

class Linear(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 64 * 64, 4)

    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self.layer(batch["image"].flatten(1)), batch["label"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

module = Linear()
"""
"""A LightningModule of a reader."""


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 200


def test_the_manifest_the_module_and_the_commands_run(tmp_path: Path) -> None:
    (tmp_path / "my-fruit.yaml").write_text(block("yaml"), encoding="utf-8")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("apple", "pear", "plum", "quince"):
            folder = tmp_path / "my-fruit" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def output(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = "\nprint([t.class_names for t in data.tasks], trainer.global_step)\n"
    said = output(sys.executable, "-c", MODULE + block("python") + shown)
    assert said.strip().splitlines()[-1] == "[('apple', 'pear'), ('plum', 'quince')] 2"
    commands = [line for line in TEXT.splitlines() if line.startswith("kc ") and "my-fruit.yaml" in line]
    assert {line.split()[1] for line in commands} == {"data", "run"}
    for command in commands:
        output(sys.executable, "-m", "kc.cli", *shlex.split(command)[1:])
    assert len(list(tmp_path.glob("runs/*-my-fruit/results.json"))) == 1
