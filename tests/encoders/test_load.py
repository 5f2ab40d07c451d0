"""Names of encoders are checked before anything loads."""

import subprocess
import sys
from pathlib import Path

import pytest

from kc.encoders.load import check_encoder_name, load_encoder
from kc.errors import MissingExtraError, UnknownNameError


@pytest.mark.parametrize(
    "name",
    [
        "lite0",
        "lite2",
        "mlp:400x2",
        "timm:resnet18",
        "timm:resnet18@/a/b.pt",
        "open_clip:ViT-B-32@openai",
        "torchvision:resnet50",
    ],
)
def test_valid_names(name: str) -> None:
    check_encoder_name(name)


@pytest.mark.parametrize(
    "name", ["lite3", "timm:", "timm:@x", "tim:resnet18", "", "lite0@x", "mlp:400", "mlp:0x2", "mlp:"]
)
def test_wrong_names_are_answered_with_the_valid_ones(name: str) -> None:
    with pytest.raises(
        UnknownNameError,
        match=r"Valid: lite0, lite1, lite2, mlp:WIDTHxDEPTH, open_clip:MODEL\[@FILE\], timm:MODEL\[@FILE\], torch",
    ):
        load_encoder(name)


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean .*'lite0'"):
        check_encoder_name("lite")


def test_lite0_by_name() -> None:
    assert load_encoder("lite0").name == "lite0"


def test_checking_a_name_loads_no_torch() -> None:
    code = (
        "import sys; from kc.encoders.load import check_encoder_name; from kc.openvocab.load import base_family; "
        "check_encoder_name('timm:a'); base_family('conse'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
    ],
)
def test_a_file_that_is_no_weights_says_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    for model in ("timm:resnet10t", "torchvision:resnet50"):
        with pytest.raises(MissingExtraError, match=said) as caught:
            load_encoder(f"{model}@{path}")
        assert str(path) in str(caught.value)


def test_weights_that_are_nan_are_refused(tmp_path: Path) -> None:
    import timm
    import torch

    state = timm.create_model("resnet10t", pretrained=False).state_dict()
    state["layer4.0.conv1.weight"].view(-1)[0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(MissingExtraError, match=r"layer4\.0\.conv1\.weight"):
        load_encoder(f"timm:resnet10t@{tmp_path / 'nan.pth'}")
