"""Every method, a row each: it learns a tiny stream, is stopped within a task, goes on to the same numbers and state,
and does what its spec says of it. A new method is a row here."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from kc.cli import main
from kc.config import RunConfig
from kc.data.datamodule import IncrementalDataModule
from kc.encoders.base import Encoder
from kc.encoders.cache import FeatureCache
from kc.errors import KcError
from kc.methods.base import Context, Remembers
from kc.methods.module import ContinualMethod
from kc.methods.training_options import Training
from kc.openvocab.base import Names
from kc.registry import METHODS, load_class, method_spec
from kc.resolve import resolve
from kc.stream.loop import MethodLoop, TrainerOptions, quiet_lightning
from kc.stream.progress import RunProgress
from kc.stream.resume import MethodState, load_checkpoint
from kc.types import Features


@dataclass(frozen=True)
class Row:
    """How the tests run a method: `images`, `maps` (semantic) and `masks` (panoptic) say what is trained on them; None:
    not run there."""

    images: Literal["head", "full"] | None = "head"
    maps: Literal["head", "full"] | None = None
    masks: Literal["head"] | None = None
    options: dict[str, Any] = field(default_factory=dict)


OF_PIXELS, OF_MASKS = Row(None, "full"), Row(None, "full", "head")
ROWS = {
    "finetune": Row(maps="full"),
    "joint": Row(maps="full"),
    "replay": Row(maps="full"),
    "linear-probe": Row(),
    "ewc": Row(maps="head", options={"lambda_": 1.0}),
    "ewc-online": Row(maps="full", options={"lambda_": 1.0}),
    "si": Row("full", "head"),
    "lwf": Row("full", "full"),
    "ilt": OF_PIXELS,
    "mib": OF_PIXELS,
    "plop": Row(None, "head"),
    "ssul": OF_PIXELS,
    "mask2former": OF_MASKS,
    "mask2former-joint": OF_MASKS,
    "mask2former-replay": OF_MASKS,
    "comformer": OF_MASKS,
    "eclipse": OF_MASKS,
    "er": Row(),
    "der++": Row(),
    "icarl": Row("full"),
    "wise-ft": Row("full", "full"),
    "lora": Row(maps="full", options={"rank": 2, "scope": "task"}),
    "knn": Row(),
    "ncm": Row(),
    "ranpac": Row(options={"dim": 16}),
    "fecam": Row(),
    "tip-adapter": Row(options={"shots": 2}),
    "knn-clip": Row(options={"fusion": "calibrated"}),
    "ret-clip": Row(options={"fusion": "log-linear"}),
    "hybrid": Row(),
    "hybrid-replay": Row(),
    "zeroshot": Row(),
}
SPECS = {name: method_spec(name) for name in METHODS}


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


class FirstLetters:
    """A base that hears of an image only how bright it is."""

    def scores_from(self, pooled: Tensor, names: Names) -> Tensor:
        heights = torch.tensor([float(ord(n[0][0])) for n in names])
        return (pooled.float().mean(1, keepdim=True) * heights[None] / 50).softmax(1)


def loop(name: str, place: Path, data: IncrementalDataModule, train: str, stop_at: int | None = None) -> MethodLoop:
    kind = data.manifest.task_kind
    torch.manual_seed(0)
    encoder = Tiny().eval().requires_grad_(False)
    config = Training(epochs=2, train=train, exemplars=5)  # type: ignore[arg-type]

    made: list[ContinualMethod] = []

    def make() -> ContinualMethod:
        options = SPECS[name].options(**ROWS[name].options)
        base: Any = FirstLetters() if SPECS[name].base == "required" else None
        features = FeatureCache(place / "features", encoder)
        context = Context(kind, data.classes, encoder, features, config, 0, place, base=base, options=options)
        made.append(load_class("method", name)(context))
        return made[-1]

    def publish(state: MethodState, task: int) -> None:
        if task == stop_at:
            made[-1].close()  # as the end of a process would
            raise KeyboardInterrupt

    progress = RunProgress(Console(file=io.StringIO()))
    return MethodLoop(name, 0, make, data, kind, place, TrainerOptions("cpu", 1, config), progress, publish)


def test_every_method_has_a_row() -> None:
    assert list(ROWS) == list(METHODS)
    for name, row in ROWS.items():
        assert (row.images is not None) == ("classification" in SPECS[name].kinds)


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.images])
def test_images(name: str, tiny_folder: SimpleNamespace, tmp_path: Path) -> None:
    data = IncrementalDataModule(tiny_folder.manifest, tasks=3, data_root=tiny_folder.root, batch_size=2)
    stop_and_go_on(name, data, str(ROWS[name].images), tmp_path)


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.maps])
def test_maps(name: str, tiny_index_png: SimpleNamespace, tmp_path: Path) -> None:
    data = IncrementalDataModule(tiny_index_png.manifest, split="2-1", data_root=tiny_index_png.root, batch_size=2)
    stop_and_go_on(name, data, str(ROWS[name].maps), tmp_path)


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.masks])
def test_masks_with_instances(name: str, tiny_coco: SimpleNamespace, tmp_path: Path) -> None:
    data = IncrementalDataModule(tiny_coco.manifest, tasks=3, data_root=tiny_coco.root, batch_size=2)
    stop_and_go_on(name, data, "head", tmp_path)


def stop_and_go_on(name: str, data: IncrementalDataModule, train: str, tmp_path: Path) -> None:
    quiet_lightning()
    data.setup()
    state, method = loop(name, tmp_path / "whole", data, train).run()
    check_spec(name, method)
    method.close()
    assert all(0.0 <= v <= 1.0 for v in state.seen if v is not None)
    with pytest.raises(KeyboardInterrupt):
        loop(name, tmp_path / "parts", data, train, stop_at=1).run()
    again, resumed = loop(name, tmp_path / "parts", data, train).run()
    resumed.close()
    assert again.rows == state.rows
    assert again.per_class == state.per_class
    if not isinstance(method, Remembers):  # a memory's files count their versions
        assert [c["stored_bytes"] for c in again.cost] == [c["stored_bytes"] for c in state.cost]
    for t in range(3):
        (a, meta_a), (b, meta_b) = (load_checkpoint(tmp_path / part, t) for part in ("whole", "parts"))
        assert meta_a == meta_b
        assert a.keys() == b.keys()
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def check_spec(name: str, method: Any) -> None:
    """What the spec says is what the class is."""
    spec = method_spec(name)
    assert method.name == name
    assert (method.trained_parameters() > 0) == (spec.family == "gradient")
    assert isinstance(method, Remembers) == ("memory" in spec.keeps)
    assert (method.stored_bytes() > 0) == (spec.family != "base")
    assert sum(v.nbytes for v in method.state()[0].values()) <= method.stored_bytes()
    if spec.family == "gradient":
        assert method.stores_images == spec.exemplars
        assert (method.network is not None) >= spec.trains_encoder


@pytest.mark.parametrize("name", METHODS)
def test_what_the_spec_says_is_refused(name: str) -> None:
    spec = SPECS[name]
    other = {"classification": "digits", "panoptic": "digit-scenes"}
    for kind, benchmark in other.items():
        given: dict[str, Any] = {"benchmark": benchmark, "methods": name, "decoder": "fpn", "epochs": 1}
        if kind not in spec.kinds:
            with pytest.raises(KcError, match=benchmark):
                resolve(RunConfig(**given))
            continue
        resolve(RunConfig(**given))
        for stream in ("online", "domain", "blurry"):
            tasks = None if stream == "domain" else 2
            config = RunConfig(**{**given, "stream": stream, "tasks": tasks})
            if stream not in spec.streams or (stream == "online" and spec.second_pass):
                with pytest.raises(KcError, match=stream):
                    resolve(config)
            else:
                resolve(config)


OWN = '''
from dataclasses import dataclass
from typing import Literal

from kc.methods.finetune.module import GradientMethod
from kc.spec import Fraction, MethodSpec


@dataclass(frozen=True)
class ShrinkingOptions:
    """Options of shrinking.

    Args:
        rate: Weight of the penalty.
        norm: Norm of the logits.
    """

    rate: Fraction = 0.5
    norm: Literal["l1", "l2"] = "l2"


class Shrinking(GradientMethod):
    name = "shrinking"
    spec = MethodSpec(summary="Small logits.", keeps="nothing", options=ShrinkingOptions)

    def extra_loss(self, batch, features, logits):
        size = logits.abs() if self.options.norm == "l1" else logits.square()
        return self.options.rate * size.mean()
'''


def test_a_method_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_of_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "shrinking", "own_of_test:Shrinking")
    common = ["run", "--benchmark", "digits", "--tasks", "2", "--limit-images", "40", "--epochs", "1"]
    common += ["--methods", "shrinking", "--wandb", "disabled", "--accelerator", "cpu", "--out", str(tmp_path / "runs")]
    assert main([*common, "--shrinking.rate", "2"]) == 2
    assert main([*common, "--shrinking.rat", "0.2"]) == 2
    assert "rate" in capsys.readouterr().err
    assert main([*common, "--shrinking.rate", "0.25", "--shrinking.norm", "l1"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["config"]["shrinking"] == {"rate": 0.25, "norm": "l1"}
    assert results["methods"][0]["matrix"][1][1] is not None
