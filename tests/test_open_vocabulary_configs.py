"""Published settings of kNN-CLIP and RetCLIP run from images to scores on stand-ins, with tiny networks in the place of
the published ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import yaml
from open_clip.factory import _MODEL_CONFIG_PATHS, _rescan_model_configs
from PIL import Image

from kc.cli import main
from kc.openvocab.fc_clip.checkpoint import save_fc_clip
from kc.openvocab.fc_clip.network import FcClip
from kc.openvocab.fc_clip.options import PUBLISHED_CLIP, FcClipConfig

FILES = sorted((Path(__file__).resolve().parents[1] / "experiments/configs/open_vocabulary").glob("*.yaml"))
CLASSES = {"ade20k-150": 150, "ade20k-panoptic": 150, "ade20k-847": 847, "pascal-context-59": 59,
           "pascal-context-459": 459, "cityscapes": 19}  # fmt: skip
GAINS = {"ade20k-150": (34.1, 7.2), "ade20k-847": (14.8, 2.6), "pascal-context-459": (18.2, 1.7)}
"""mIoU of FC-CLIP, and what kNN-CLIP adds."""
SHOWN = 6
"""Classes that the images of a stand-in show."""
CLIP = "convnext-kc-configs"


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Tiny stand-ins, by what they stand in for: weights of FC-CLIP, of its CLIP and of DINOv2."""
    folder = tmp_path_factory.mktemp("networks")
    tower = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
    (folder / f"{CLIP}.json").write_text(json.dumps({"embed_dim": 12, "vision_cfg": tower, "text_cfg": text}))
    before = list(_MODEL_CONFIG_PATHS)
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(open_clip.create_model(CLIP).state_dict(), folder / "clip.pt")
    torch.save(timm.create_model("test_vit").state_dict(), folder / "vit.pth")
    save_fc_clip(FcClip(FcClipConfig(CLIP, 32, 32, 5, 4, 1, 16, 2, 16)), folder / "fc-clip.safetensors")
    yield SimpleNamespace(
        base=f"fc-clip@{folder / 'fc-clip.safetensors'}",
        open_clip=f"open_clip:{CLIP}@{folder / 'clip.pt'}",
        timm=f"timm:test_vit@{folder / 'vit.pth'}",
    )
    _MODEL_CONFIG_PATHS[:] = before
    _rescan_model_configs()


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def stand_in(root: Path, benchmark: str) -> Path:
    """The manifest of a benchmark with all its classes, and two images a split that show the first of them."""
    panoptic = benchmark == "ade20k-panoptic"
    folder = root / "data" / benchmark
    labels = np.kron(np.arange(1, SHOWN + 1).reshape(2, 3), np.ones((16, 16), np.int64))
    for split in ("train", "test"):
        images, annotations = [], []
        for i in range(2):
            turned = np.roll(labels, 16 * i, axis=1)
            save(folder / "images" / split / f"{i}.png", np.stack([turned * 40, 255 - turned * 30, turned % 3 * 90], 2))
            if panoptic:
                parts = np.stack([turned, 0 * turned, 0 * turned], 2)
                save(folder / "labels" / split / f"{i}.png", parts)
                found = [{"id": c, "category_id": c, "iscrowd": 0} for c in range(1, SHOWN + 1)]
                images.append({"id": i, "file_name": f"{i}.png", "height": 32, "width": 48})
                annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": found})
            else:
                save(folder / "labels" / split / f"{i}.png", turned)
        if panoptic:
            names = [{"id": c, "name": f"class {c}", "isthing": 0} for c in range(1, CLASSES[benchmark] + 1)]
            content = {"images": images, "annotations": annotations, "categories": names}
            (folder / f"{split}.json").write_text(json.dumps(content))
    ids = list(range(1, CLASSES[benchmark] + 1))
    manifest: dict[str, Any] = {
        "name": f"{benchmark}-stand-in",
        "task_kind": "panoptic" if panoptic else "semantic",
        "source": {"reader": "coco_panoptic" if panoptic else "index_png", "folder": benchmark},
        "splits": {
            s: {"images": f"images/{s}", "annotations": f"{s}.json", "masks": f"labels/{s}"}
            if panoptic
            else {"images": f"images/{s}", "labels": f"labels/{s}"}
            for s in ("train", "test")
        },
        "classes": [{"id": c, "name": f"class {c}"} for c in ids],
        "input_size": [64, 64],
        **({} if panoptic else {"ignore": 0}),
    }
    path = root / f"{benchmark}.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return path


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_it_names_what_the_papers_name(file: Path) -> None:
    config = yaml.safe_load(file.read_text())
    assert config["base"].startswith("fc-clip@")
    assert config["proposals"] == "fc-clip"
    _, _, model = config["encoder"].partition(":")
    if "knn-clip" in file.stem:
        assert timm.is_model_pretrained(model)
        assert timm.get_pretrained_cfg(model).architecture == "vit_large_patch14_dinov2"
        if config["benchmark"] in GAINS:
            base, gain = GAINS[config["benchmark"]]
            assert f"zeroshot (FC-CLIP alone) {base} (" in file.read_text()
            assert f"knn-clip {base + gain:.1f} (the base + {gain})" in file.read_text()
    else:
        clip, tag = model.split("@")
        assert clip == PUBLISHED_CLIP
        assert tag in open_clip.list_pretrained_tags_by_model(clip)
        own = config["ret-clip"]
        assert (own["alpha"], own["beta"], own["gamma"]) == (0.4, 0.7, 0.3)


def test_every_published_setting_is_there() -> None:
    assert {f.stem for f in FILES} == {"ret-clip-ade20k", *(f"knn-clip-{b}" for b in CLASSES if b != "ade20k-panoptic")}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_it_runs(file: Path, networks: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load(file.read_text())
    manifest = stand_in(tmp_path, config["benchmark"])
    arguments = ["run", "--config", file, "--benchmark", manifest, "--data-root", tmp_path / "data"]
    arguments += ["--base", networks.base, "--encoder", getattr(networks, config["encoder"].partition(":")[0])]
    arguments += ["--fc-clip.sides", "64,96", "--out", tmp_path / "runs", "--wandb", "disabled", "--purity", "0.1"]
    assert main([str(a) for a in arguments]) == 0, capsys.readouterr().err
    (folder,) = (tmp_path / "runs").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert [m["name"] for m in results["methods"]] == config["methods"].split(",")
    assert results["fingerprints"]["proposals"].startswith("fc-clip-64-96")
    last = results["methods"][-1]
    assert last["cost"][-1]["stored_bytes"] > 0  # regions of the base became rows
    assert 0 <= last["seen"][-1] <= 1
