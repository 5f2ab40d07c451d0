"""`kc fc-clip` and a run on its base as a user types them, with tiny random weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip.factory import _MODEL_CONFIG_PATHS, _rescan_model_configs
from safetensors import safe_open

from kc.cli import main
from kc.commands import fc_clip as command
from kc.openvocab.fc_clip.checkpoint import load_fc_clip, official_key, save_fc_clip
from kc.openvocab.fc_clip.coco import COCO_NAMES
from kc.openvocab.fc_clip.network import FcClip
from kc.openvocab.fc_clip.options import FcClipConfig
from kc.predict.opening import open_run

CLIP = "convnext-kc-command"
SMALL = FcClipConfig(CLIP, 32, 32, 5, 4, 1, 16, 2, 16)


@pytest.fixture(autouse=True)
def clip(tmp_path: Path) -> Iterator[Path]:
    """Weights of a tiny CLIP that open_clip knows."""
    tower = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    folder = tmp_path / "open-clip"
    folder.mkdir()
    (folder / f"{CLIP}.json").write_text(json.dumps({"embed_dim": 12, "vision_cfg": tower, "text_cfg": text}))
    before = list(_MODEL_CONFIG_PATHS)
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(open_clip.create_model(CLIP).state_dict(), folder / "weights.pt")
    yield folder / "weights.pt"
    _MODEL_CONFIG_PATHS[:] = before
    _rescan_model_configs()


def kc(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert main([str(argument) for argument in arguments]) == status
    said = capsys.readouterr()
    return " ".join((said.err if status == 2 else said.out).split())


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """What the authors would have published of a small network."""
    torch.manual_seed(0)
    parts: dict[str, list[torch.Tensor]] = {}
    for key, value in FcClip(SMALL).state_dict().items():
        parts.setdefault(official_key(key)[0], []).append((official_key(key)[1] or 0, value))  # type: ignore[arg-type]
    in_order = {name: [value for _, value in sorted(found, key=lambda pair: pair[0])] for name, found in parts.items()}
    state = {name: torch.cat(found) if len(found) > 1 else found[0] for name, found in in_order.items()}
    torch.save({"model": state}, tmp_path / "released.pth")
    return tmp_path / "released.pth"


def test_convert_then_run(
    released: Path, tiny_coco: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fc-clip.safetensors"
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["cat,cats", "grass", *(f"thing {i}" for i in range(4))]))
    said = kc(capsys, "fc-clip", "convert", released, out, "--clip", CLIP, "--names", names)
    assert f"FC-CLIP on {CLIP}" in said
    assert "5 queries, trained on 6 classes" in said
    run = ["run", "--benchmark", tiny_coco.path, "--data-root", tiny_coco.root, "--base", f"fc-clip@{out}"]
    run += ["--proposals", "fc-clip", "--fc-clip.sides", "64,96", "--methods", "zeroshot,knn", "--tasks", "2"]
    kc(capsys, *run, "--out", tmp_path / "runs")
    (folder,) = (tmp_path / "runs").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert {method["name"] for method in results["methods"]} == {"zeroshot", "knn"}
    assert results["fingerprints"]["proposals"].startswith("fc-clip-64-96-0.05-")
    assert "sides=64,96" in results["fingerprints"]["base"]
    for name in ("zeroshot", "knn"):  # a stored run asks the base as the run did
        asked = open_run(folder, name).session
        assert asked.base is not None
        assert asked.base.key == results["fingerprints"]["base"]
        assert asked.regions is not None
        assert asked.regions.source == results["fingerprints"]["proposals"]
    assert all(value is None or 0 <= value <= 1 for m in results["methods"] for row in m["matrix"] for value in row)


def test_training_stopped_and_gone_on_is_training_in_one_go(
    clip: Path,
    tiny_coco: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "FcClipConfig", lambda clip: dataclasses.replace(SMALL, clip=clip))
    common = ["--benchmark", tiny_coco.path, "--data-root", tiny_coco.root, "--clip", CLIP, "--clip-weights", clip,
              "--steps", 4, "--batch-size", 2, "--accumulate", 2, "--crop", 64, "--points", 32,
              "--save-every", 2]  # fmt: skip
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    said = kc(capsys, "fc-clip", "train", whole, *common)
    assert "tiny-coco: 5 images, 5 classes, steps 1 to 4" in said
    assert "step 4/4: loss" in said
    step = command._step

    def stop(number: int, *rest: object) -> float:
        if number == 3:
            raise KeyboardInterrupt
        return step(number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "_step", stop)
    kc(capsys, "fc-clip", "train", parts, *common, status=130)
    monkeypatch.setattr(command, "_step", step)
    assert "add --resume, or delete it" in kc(capsys, "fc-clip", "train", parts, *common, status=2)
    assert "steps 3 to 4" in kc(capsys, "fc-clip", "train", parts, *common, "--resume")
    assert not parts.with_suffix(".state.pt").exists()
    one, two = (load_fc_clip(path) for path in (whole, parts))
    assert one.names == (("cat",), ("dog",), ("bird",), ("grass",), ("sky",))
    start = torch.load(clip, weights_only=True)
    assert all(torch.equal(value, start[key]) for key, value in one.clip.state_dict().items())
    for key, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[key], value, msg=key)


def test_names_go_into_the_file(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_text("sky, blue sky\ntree\n")
    out = tmp_path / "fc-clip.safetensors"
    kc(capsys, "fc-clip", "convert", released, out, "--clip", CLIP, "--names", names)
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["names"]) == [["sky", "blue sky"], ["tree"]]
    names.write_text("sky,\n")
    said = kc(capsys, "fc-clip", "convert", released, out, "--clip", CLIP, "--names", names, status=2)
    assert "an empty name in line 1" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert", "a.pth"], "OUT"),
        (["convert", "a.pth", "b.pth"], "what is written is a .safetensors file"),
        (["convert", "none.pth", "b.safetensors"], "cannot be read"),
        (["convert", "a.pkl", "b.safetensors"], "--allow-pickle"),
        (["turn", "a.pth"], "'turn'"),
        (["train", "a.safetensors", "--crop", "100"], "must be a multiple of 32"),
        (["train", "a.safetensors", "--batch-size", "3", "--accumulate", "2"], "equal parts"),
        (["train", "a.safetensors", "--benchmark", "digits"], "is classification"),
        (["train", "a.safetensors", "--benchmark", "digit-scenes", "--clip", "RN50"], "ConvNeXt"),
    ],
)
def test_errors(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in kc(capsys, "fc-clip", *arguments, status=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--base", "fc-clip"], "needs its weights, which are not bundled: download the COCO checkpoint"),
        (["--base", "fc-clip@none.safetensors"], "there is no file none.safetensors; download"),
        (["--base", "fc-clap"], "unknown base 'fc-clap'. Did you mean 'fc-clip'"),
        (["--proposals", "fc-clip"], "--proposals fc-clip are the masks of the run's base: add --base"),
        (["--fc-clip.sides", "96,64"], "--fc-clip.sides"),  # of a base that does not run
    ],
)
def test_a_run_is_refused_early(
    arguments: list[str], said: str, tiny_coco: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "--benchmark", tiny_coco.path, "--data-root", tiny_coco.root, "--methods", "knn", "--tasks", "2"]
    assert said in kc(capsys, *run, *arguments, status=2)


def test_names_of_coco_are_in_the_order_of_its_manifest() -> None:
    from kc.data.manifest import load_manifest

    info = load_manifest("coco-panoptic").info
    assert len(info) == len(COCO_NAMES)
    same = [own.name in names for own, names in zip(info, COCO_NAMES, strict=True)]
    assert sum(same) > 90


def test_what_is_saved_reads_back(tmp_path: Path) -> None:
    network = FcClip(SMALL)
    save_fc_clip(network, tmp_path / "a.safetensors")
    again = load_fc_clip(tmp_path / "a.safetensors").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in network.state_dict().items())
