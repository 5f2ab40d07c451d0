"""Every published setting builds its model, data and optimiser on stand-in data in the real format and takes a step."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from kc.config import RunConfig
from kc.encoders.base import Encoder
from kc.encoders.cache import FeatureCache
from kc.encoders.lite import Lite0
from kc.encoders.timm_model import TimmEncoder
from kc.encoders.torchvision_model import TorchvisionResNet
from kc.methods.base import Context
from kc.methods.training_options import Training
from kc.parsing import parse
from kc.registry import load_class, method_spec
from kc.resolve import resolve
from kc.session import open_data
from kc.spec import at_task

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))

# File -> epochs of the first and the second task, batch, learning rates of the two; classes a task (with background).
VOC, ADE = (30, 30, 24, 0.01, 0.001), (60, 60, 24, 0.01, 0.001)
VIT = (20, 20, 48, 0.01, 0.01)
PUBLISHED: dict[str, tuple[tuple[float, ...], list[int]]] = {
    "voc-19-1": (VOC, [20, 1]),
    "voc-15-5": (VOC, [16, 5]),
    "voc-15-1": (VOC, [16] + [1] * 5),
    "voc-10-1": (VOC, [11] + [1] * 10),
    "ade-100-50": (ADE, [100, 50]),
    "ade-100-10": (ADE, [100] + [10] * 5),
    "ade-100-5": (ADE, [100] + [5] * 10),
    "ade-50-50": (ADE, [50] * 3),
    "cifar100-10": (VIT, [10] * 10),
    "cifar100-20": (VIT, [5] * 20),
    "imagenet-r-10": (VIT, [20] * 10),
    "imagenet-r-20": (VIT, [10] * 20),
}
# Iterations of the first and of a later task: comformer's and eclipse's.
ITERATIONS = {
    "100-50": ((160_000, 20_000), (160_000, 80_000)),
    "100-10": ((160_000, 4_000), (160_000, 16_000)),
    "100-5": ((160_000, 2_000), (160_000, 12_000)),
    "50-50": ((160_000, 20_000), (80_000, 120_000)),
}


def epochs(iterations: int, batch: int, images: int) -> int:
    return max(1, round(iterations * batch / images))


for setting, schedules in ITERATIONS.items():
    for suffix, rate, numbers in zip(("", "-eclipse"), (5e-5, 5e-4), schedules, strict=True):
        first, later = (epochs(n, 8, 20_210) for n in numbers)
        PUBLISHED[f"ade-panoptic-{setting}{suffix}"] = (first, later, 8, 1e-4, rate), PUBLISHED[f"ade-{setting}"][1]
for setting, later, sizes in (("83-10", 32_000, [10] * 5), ("83-5", 8_000, [5] * 10)):
    both = (epochs(240_000, 16, 118_287), epochs(later, 16, 118_287))
    PUBLISHED[f"coco-panoptic-{setting}"] = (*both, 16, 1e-4, 5e-4), [83, *sizes]


@pytest.fixture(autouse=True)
def freed() -> Iterator[None]:
    """Large networks refer to themselves: without this, those of all settings would stay in memory together."""
    yield
    gc.collect()


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def maps(classes: list[int]) -> list[np.ndarray]:
    """Label maps of 64 x 64 in blocks of 8 x 8 that together hold every class twice."""
    blocks = np.array(classes * 2 + classes[: -2 * len(classes) % 64])
    blocks = np.resize(blocks, (-(-len(blocks) // 64), 8, 8))
    return [np.kron(b, np.ones((8, 8), dtype=np.int64)) for b in blocks]


def index_png(folder: Path, ids: list[int], ignore: int) -> dict[str, Any]:
    """VOC and ADE20K: images and single-channel masks."""
    for split in ("train", "test"):
        for i, labels in enumerate(maps(ids)):
            labels[:2] = ignore
            save(folder / "images" / split / f"{i}.png", np.stack([labels, 255 - labels, labels % 7 * 30], -1))
            save(folder / "labels" / split / f"{i}.png", labels)
    return {
        "task_kind": "semantic",
        "source": {"reader": "index_png", "folder": folder.name},
        "splits": {s: {"images": f"images/{s}", "labels": f"labels/{s}"} for s in ("train", "test")},
        "ignore": ignore,
        "input_size": [64, 64],
    }


def panoptic(folder: Path, ids: list[int]) -> dict[str, Any]:
    """ADE20K and COCO panoptic: one JSON, one PNG of segment ids an image; every class is one stuff segment."""
    for split in ("train", "test"):
        images, annotations = [], []
        for i, labels in enumerate(maps(ids)):
            save(folder / "images" / split / f"{i}.png", np.stack([labels, 255 - labels, labels % 7 * 30], -1))
            segments = labels + 1000
            parts = [segments % 256, segments // 256 % 256, segments // 65536]
            save(folder / "masks" / split / f"{i}.png", np.stack(parts, -1))
            images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
            found = [{"id": int(c) + 1000, "category_id": int(c), "iscrowd": 0} for c in np.unique(labels)]
            annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": found})
        categories = [{"id": c, "name": f"class {c}", "isthing": 0} for c in ids]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return {
        "task_kind": "panoptic",
        "source": {"reader": "coco_panoptic", "folder": folder.name},
        "splits": {
            s: {"images": f"images/{s}", "annotations": f"{s}.json", "masks": f"masks/{s}"} for s in ("train", "test")
        },
        "input_size": [64, 64],
    }


def class_folders(folder: Path, ids: list[int]) -> dict[str, Any]:
    """CIFAR-100 and ImageNet-R: one folder a class."""
    for split in ("train", "test"):
        for c in ids:
            save(folder / split / f"class {c}" / "0.png", np.full((32, 32, 3), (c, 255 - c, c % 9 * 20)))
    return {
        "task_kind": "classification",
        "source": {"reader": "folder", "folder": folder.name},
        "splits": {s: {"path": s} for s in ("train", "test")},
        "input_size": [32, 32],
    }


STAND_INS: dict[str, tuple[Callable[[Path], dict[str, Any]], list[int]]] = {
    "voc2012": (lambda f: index_png(f, list(range(21)), 255), list(range(21))),
    "ade20k-150": (lambda f: index_png(f, list(range(1, 151)), 0), list(range(1, 151))),
    "ade20k-panoptic": (lambda f: panoptic(f, list(range(1, 151))), list(range(1, 151))),
    "coco-panoptic": (lambda f: panoptic(f, list(range(1, 134))), list(range(1, 134))),
    "cifar100": (lambda f: class_folders(f, list(range(100))), list(range(100))),
    "imagenet-r": (lambda f: class_folders(f, list(range(200))), list(range(200))),
}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The manifest of a stand-in for a benchmark, with its data beside it in "data"."""
    root = tmp_path_factory.mktemp("stand-ins")

    @cache
    def make(benchmark: str) -> Path:
        build, ids = STAND_INS[benchmark]
        content = build(root / "data" / benchmark)
        names = [f"class {c}" for c in ids]
        classes: list[dict[str, Any]] = [{"id": c, "name": n} for c, n in zip(ids, names, strict=True)]
        if benchmark == "voc2012":
            classes[0]["background"] = True
        prefixes = {
            "voc2012": "voc-",
            "ade20k-150": "ade-",
            "ade20k-panoptic": "ade-",
            "coco-panoptic": "coco-panoptic-",
        }
        start = prefixes.get(benchmark, "none")
        splits = {k.removeprefix(start): v for k, (_, v) in PUBLISHED.items() if k.startswith(start)}
        splits = {k: v for k, v in splits.items() if not k.startswith("panoptic-")}  # nor "-eclipse": the same splits
        path = root / f"{benchmark}.yaml"
        path.write_text(yaml.safe_dump({"name": benchmark, **content, "classes": classes, "task_splits": splits}))
        return path

    return make


@cache
def encoder(name: str) -> Encoder:
    """The encoder of a config with random weights: the network is the published one, its file is not here."""
    torch.manual_seed(0)
    family, _, model = name.partition(":")
    if family == "lite0":  # a mask classifier does not read it
        return Lite0().eval().requires_grad_(False)
    if family == "torchvision":
        return TorchvisionResNet(model).eval().requires_grad_(False)
    network = timm.create_model(model.partition(".")[0], num_classes=0, dynamic_img_size=True, dynamic_img_pad=True)
    return TimmEncoder(model, network).eval().requires_grad_(False)


def read(file: Path, stand_in: Callable[[str], Path]) -> RunConfig:
    """The config on the stand-in's data, with batches of two and a tiny mask network."""
    manifest = stand_in(yaml.safe_load(file.read_text())["benchmark"])
    methods = yaml.safe_load(file.read_text())["methods"].split(",")
    tiny = [f"--{name}.model=tiny" for name in methods if method_spec(name).mask_classifier]
    return parse(["--config", str(file), "--benchmark", str(manifest), "--data-root", str(manifest.parent / "data"),
                  "--batch-size", "2", *tiny])  # fmt: skip


def test_every_published_setting_is_there() -> None:
    assert {f.stem for f in FILES} == set(PUBLISHED)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_it_says_what_the_paper_says(file: Path, stand_in: Callable[[str], Path]) -> None:
    (first_epochs, epochs, batch, first, second), classes = PUBLISHED[file.stem]
    config = read(file, stand_in)
    resolve(config)
    content = yaml.safe_load(file.read_text())
    assert content["batch_size"] == batch
    for name in config.method_names:
        if method_spec(name).mask_classifier:
            assert content[name]["model"].startswith("facebook/mask2former")
    assert (at_task(config.epochs, 0), at_task(config.epochs, 1)) == (first_epochs, epochs)
    assert (at_task(config.lr, 0), at_task(config.lr, 1)) == (first, second)
    assert [len(t.class_ids) for t in open_data(config).tasks] == classes


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_it_takes_a_step(file: Path, stand_in: Callable[[str], Path], tmp_path: Path) -> None:
    config = read(file, stand_in)
    data = open_data(config)
    network = encoder(config.encoder)
    own = {f: getattr(config, f) for f in Training.__dataclass_fields__ if f not in ("keys", "decoder")}
    knobs = Training(**own, decoder=config.decoder or "fpn")
    kind = data.manifest.task_kind
    name = config.method_names[0]
    options = method_spec(name).options(**config.of(name))
    features = FeatureCache(tmp_path, network)
    context = Context(kind, data.classes, network, features, knobs, 0, tmp_path, options=options)
    method = cast(Any, load_class("method", name)(context))
    method.start_task(data.tasks[0])
    trainer = L.Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, barebones=True)
    before = {k: p.detach().clone() for k, p in method.trained().items()}
    trainer.fit(method, data.task(0, method.train_scope, raw=False))
    (optimizer,) = trainer.optimizers
    assert trainer.global_step == 1
    masks = method_spec(name).mask_classifier
    assert isinstance(optimizer, torch.optim.AdamW if masks else torch.optim.SGD)
    rates = [g["initial_lr"] for g in optimizer.param_groups]
    assert rates == pytest.approx([1e-4, 1e-5] if masks else [0.01] * len(rates))
    backbone = method.head.decoder.backbone if masks else method.network
    of_backbone = {id(p) for p in backbone.parameters()}
    changed = [k for k, p in method.trained().items() if id(p) in of_backbone and not torch.equal(p, before[k])]
    assert changed
