"""One body over every method, of images and of maps: a stream, a stop within a task, and the same numbers later."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from kc.data.datamodule import IncrementalDataModule
from kc.encoders.base import Encoder
from kc.encoders.cache import FeatureCache
from kc.methods.base import Context, ContinualMethod
from kc.methods.training_options import Training
from kc.registry import METHODS, load_class, method_spec
from kc.stream.loop import MethodLoop, TrainerOptions, quiet_lightning
from kc.stream.progress import RunProgress
from kc.stream.resume import MethodState, load_checkpoint
from kc.types import Features

SPECS = {name: method_spec(name) for name in METHODS}
MASKS = {name for name, spec in SPECS.items() if spec.mask_classifier}
PIXELS_ONLY = {name for name, spec in SPECS.items() if "classification" not in spec.kinds}
NEEDS_BASE = {name for name, spec in SPECS.items() if spec.base == "required"}
OPTIONS: dict[str, dict[str, Any]] = {
    "ranpac": {"dim": 16},
    "tip-adapter": {"shots": 2},
    "lora": {"rank": 2, "scope": "task"},
    "ewc": {"lambda_": 1.0},
    "ewc-online": {"lambda_": 1.0},
}
OF_MAPS = sorted(PIXELS_ONLY | {"finetune", "joint", "replay", "ewc", "ewc-online", "si", "lwf", "lora", "wise-ft"})


class Tiny(Encoder):
    """One convolution; pooled 4."""

    def __init__(self) -> None:
        super().__init__()
        self.name = self.architecture = "tiny"
        self.strides, self.channels, self.pooled_dim, self.preprocessing = (8,), (4,), 4, (1.0, 0.0)
        self.stem = nn.Conv2d(3, 4, 8, stride=8)

    def forward(self, images: Tensor) -> Features:
        level = torch.relu(self.stem(images))
        return Features(level.mean((2, 3)), (level,), self.strides)


def loop(name: str, place: Path, data: IncrementalDataModule, train: str, stop_at: int | None = None) -> MethodLoop:
    kind = data.manifest.task_kind
    torch.manual_seed(0)
    encoder = Tiny().eval().requires_grad_(False)
    config = Training(epochs=2, train=train, exemplars=5)

    made: list[ContinualMethod] = []

    def make() -> ContinualMethod:
        features = FeatureCache(place / "features", encoder)
        options = SPECS[name].options(**OPTIONS.get(name, {}))
        context = Context(kind, data.classes, encoder, features, config, 0, place, options=options)
        made.append(load_class("method", name)(context))
        return made[-1]

    def publish(state: MethodState, task: int) -> None:
        if task == stop_at:
            made[-1].close()  # as the end of a process would
            raise KeyboardInterrupt

    progress = RunProgress(Console(file=io.StringIO()))
    return MethodLoop(name, 0, make, data, kind, place, TrainerOptions("cpu", 1, config), progress, publish)


@pytest.mark.parametrize("name", sorted(set(METHODS) - NEEDS_BASE - PIXELS_ONLY))
def test_a_stopped_method_goes_on_to_the_same_numbers(name: str, tiny_folder: SimpleNamespace, tmp_path: Path) -> None:
    data = IncrementalDataModule(tiny_folder.manifest, tasks=3, data_root=tiny_folder.root, batch_size=2)
    stop_and_go_on(name, data, "full" if name in ("si", "lwf", "icarl", "wise-ft") else "head", tmp_path)


@pytest.mark.parametrize("name", OF_MAPS)
def test_a_stopped_method_of_maps_does_so_too(name: str, tiny_index_png: SimpleNamespace, tmp_path: Path) -> None:
    data = IncrementalDataModule(tiny_index_png.manifest, split="2-1", data_root=tiny_index_png.root, batch_size=2)
    stop_and_go_on(name, data, "head" if name in ("plop", "ewc", "si") else "full", tmp_path)


@pytest.mark.parametrize("name", sorted(MASKS))
def test_so_does_a_stopped_method_of_masks_with_instances(
    name: str, tiny_coco: SimpleNamespace, tmp_path: Path
) -> None:
    data = IncrementalDataModule(tiny_coco.manifest, tasks=3, data_root=tiny_coco.root, batch_size=2)
    stop_and_go_on(name, data, "head", tmp_path)


def stop_and_go_on(name: str, data: IncrementalDataModule, train: str, tmp_path: Path) -> None:
    quiet_lightning()
    data.setup()
    state, method = loop(name, tmp_path / "whole", data, train).run()
    method.close()
    assert all(0.0 <= v <= 1.0 for v in state.seen if v is not None)
    with pytest.raises(KeyboardInterrupt):
        loop(name, tmp_path / "parts", data, train, stop_at=1).run()
    again, resumed = loop(name, tmp_path / "parts", data, train).run()
    resumed.close()
    assert again.rows == state.rows
    assert again.per_class == state.per_class
    if name != "knn":  # a memory's files count their versions
        assert [c["stored_bytes"] for c in again.cost] == [c["stored_bytes"] for c in state.cost]
    for t in range(3):
        (a, meta_a), (b, meta_b) = (load_checkpoint(tmp_path / part, t) for part in ("whole", "parts"))
        assert meta_a == meta_b
        assert a.keys() == b.keys()
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
