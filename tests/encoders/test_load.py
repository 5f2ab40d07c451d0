"""Names of encoders are checked before anything loads."""

import subprocess
import sys

import pytest

from kc.encoders.load import check_encoder_name, load_encoder
from kc.errors import UnknownNameError


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
