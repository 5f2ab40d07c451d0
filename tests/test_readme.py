"""What the README shows is run: its manifest, a module that trains on it, its commands. It has 200 lines at most."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kc.cli import main

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


def test_the_manifest_the_module_and_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-fruit.yaml").write_text(block("yaml"), encoding="utf-8")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("apple", "pear", "plum", "quince"):
            folder = tmp_path / "my-fruit" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(MODULE + block("python"), "README.md", "exec"), names)
    assert [t.class_names for t in names["data"].tasks] == [("apple", "pear"), ("plum", "quince")]
    assert names["trainer"].global_step == 2
    commands = [line for line in TEXT.splitlines() if line.startswith("kc ") and "my-fruit.yaml" in line]
    assert {line.split()[1] for line in commands} == {"data", "run"}
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    assert len(list(tmp_path.glob("runs/*-my-fruit/results.json"))) == 1
