"""torchvision ResNets at output stride 16, with random weights in a local file."""

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from kc.encoders import torchvision_model
from kc.encoders.load import load_encoder
from kc.encoders.torchvision_model import TorchvisionResNet
from kc.errors import MissingExtraError, UnknownNameError


@pytest.fixture(scope="module")
def network() -> torchvision.models.ResNet:
    torch.manual_seed(0)
    return torchvision.models.resnet50().eval()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_levels_and_weights_are_those_of_the_file(
    suffix: str, network: torchvision.models.ResNet, tmp_path: Path
) -> None:
    path = tmp_path / f"resnet50.{suffix}"
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    if suffix == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    encoder = load_encoder(f"torchvision:resnet50@{path}")
    assert isinstance(encoder, TorchvisionResNet)
    assert not encoder.training
    images = torch.rand(1, 3, 64, 96)
    features = encoder.encode(images)
    assert [tuple(x.shape) for x in features.levels] == [(1, 512, 8, 12), (1, 1024, 4, 6), (1, 2048, 4, 6)]
    assert encoder.strides == features.strides == (8, 16, 16)
    assert encoder.channels == (512, 1024, 2048)
    assert features.pooled.shape == (1, encoder.pooled_dim)
    # Up to stride 16 dilation changes nothing: these are the stages of torchvision's own network.
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        x: Tensor = network.maxpool(network.relu(network.bn1(network.conv1((images - mean) / std))))
        x = network.layer2(network.layer1(x))
        torch.testing.assert_close(features.levels[0], x)
        torch.testing.assert_close(features.levels[1], network.layer3(x))


def test_foreign_weights_list_their_keys(network: torchvision.models.ResNet, tmp_path: Path) -> None:
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    state["strange.weight"] = state.pop("layer1.0.conv1.weight")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(MissingExtraError, match=r"missing \['layer1.0.conv1.weight'\], 1 unknown \['strange.weight'\]"):
        load_encoder(f"torchvision:resnet50@{tmp_path / 'w.safetensors'}")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "sprung"), "w")

    torch.save({"x": Trap()}, tmp_path / "w.pth")
    with pytest.raises(MissingExtraError, match="objects beside tensors"):
        load_encoder(f"torchvision:resnet50@{tmp_path / 'w.pth'}")
    assert not (tmp_path / "sprung").exists()


def test_missing_file_and_missing_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingExtraError, match="no such file"):
        load_encoder(f"torchvision:resnet50@{tmp_path / 'none.pth'}")
    create = torchvision_model.get_model

    def offline(model: str, **options: object) -> object:
        if options.get("weights") is not None:
            raise OSError("no route to host")
        return create(model, **options)

    monkeypatch.setattr(torchvision_model, "get_model", offline)
    with pytest.raises(MissingExtraError, match="no route to host"):
        load_encoder("torchvision:resnet50")


def test_unknown_model() -> None:
    with pytest.raises(UnknownNameError, match="Valid: resnet101, resnet152, resnet50"):
        load_encoder("torchvision:resnet18")
