"""A stored run or memory is opened again exactly as it was made."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from kc.compare import run
from kc.config import RunConfig
from kc.data.datamodule import IncrementalDataModule
from kc.data.manifest import load_manifest
from kc.memory.disk import Memory
from kc.predict.opening import open_run
from kc.resolve import resolve, tasks_of
from kc.session import Facts, config_of_memory, open_data

STREAMS: list[dict[str, Any]] = [
    {"stream": "domain", "options": {"domain": {"corruptions": "clean,jpeg:1"}}},
    {"stream": "blurry", "tasks": 3, "options": {"blurry": {"classes": 0.5, "leak": 0.3, "leak_to": "all"}}},
    {"stream": "long-tailed", "tasks": 3, "options": {"long-tailed": {"imbalance": 2.0}}},
]


@pytest.fixture
def images(tiny_folder: SimpleNamespace) -> SimpleNamespace:
    tiny_folder.path.write_text(yaml.safe_dump(tiny_folder.content | {"input_size": [64, 64]}))
    return tiny_folder


def config_for(tiny: SimpleNamespace, out: Path, **more: Any) -> RunConfig:
    common = {"benchmark": str(tiny.path), "data_root": tiny.root, "out": out, "epochs": 1, "wandb": "disabled"}
    return RunConfig(**{**common, "accelerator": "cpu", "seed": "3,4", "methods": "ncm,knn", **more})


@pytest.mark.parametrize("more", STREAMS, ids=lambda m: m["stream"])
def test_tasks_are_those_of_the_stream_and_the_seed(more: dict[str, Any], tiny_folder: SimpleNamespace) -> None:
    config = resolve(config_for(tiny_folder, Path(), **more))
    for seed in (3, 4):
        data: IncrementalDataModule = open_data(config, seed)
        assert tasks_of(config, data.manifest, seed) == data.tasks


@pytest.mark.parametrize("more", STREAMS, ids=lambda m: m["stream"])
def test_a_run_of_any_stream_is_asked_again(more: dict[str, Any], images: SimpleNamespace, tmp_path: Path) -> None:
    folder = run(config_for(images, tmp_path, **more), Console(quiet=True))
    for name, seed in (("ncm", 4), ("knn", 3)):
        assert set(open_run(folder, name, seed).names) == {"red", "green leaf", "blue"}


def test_a_memory_says_how_it_was_made(images: SimpleNamespace, tmp_path: Path) -> None:
    folder = run(config_for(images, tmp_path, seed=0, methods="knn", tasks=3), Console(quiet=True))
    (folder / "methods" / "knn-s0" / "memory").rename(tmp_path / "elsewhere")
    with Memory.open(tmp_path / "elsewhere") as memory:
        config, facts = config_of_memory(memory.info), Facts.of_memory(memory.info)
    manifest = load_manifest(str(images.path))
    assert dataclasses.replace(facts, name=manifest.name) == Facts.of(manifest)
    assert (config.encoder, config.methods, config.benchmark) == ("lite0", "knn", str(images.path))
