"""timm encoders with small random weights in a local file."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from kc.encoders.load import load_encoder
from kc.encoders.timm_model import TimmEncoder
from kc.errors import MissingExtraError, UnknownNameError


def weights(folder: Path, model: str) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(0)
    state = timm.create_model(model).state_dict()
    path = folder / f"{model}.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path, state


def test_convolutional_network(tmp_path: Path) -> None:
    path, state = weights(tmp_path, "resnet10t")
    encoder = load_encoder(f"timm:resnet10t@{path}")
    assert isinstance(encoder, TimmEncoder)
    assert torch.equal(encoder.network.conv1[0].weight, state["conv1.0.weight"])
    assert not encoder.training
    features = encoder.encode(torch.rand(2, 3, 64, 96))
    assert encoder.strides == features.strides == (8, 16, 32)
    assert encoder.channels == (128, 256, 512)
    assert [tuple(level.shape) for level in features.levels] == [(2, 128, 8, 12), (2, 256, 4, 6), (2, 512, 2, 3)]
    assert features.pooled.shape == (2, encoder.pooled_dim)
    assert (encoder.pyramid_strides, encoder.pyramid_channels) == ((4, 8, 16, 32), (64, 128, 256, 512))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        fine, *others = encoder.pyramid(images)
        assert all(torch.equal(a, b) for a, b in zip(others, encoder(images).levels, strict=True))
    assert fine.shape == (2, 64, 16, 24)
    assert encoder.fingerprint.startswith("timm:resnet10t:")


def test_pooled_is_what_the_classifier_reads_and_input_is_normalised(tmp_path: Path) -> None:
    path, state = weights(tmp_path, "resnet10t")
    whole = timm.create_model("resnet10t").eval()
    whole.load_state_dict(state)
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(whole.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        wanted = whole((images - mean) / std)
        logits = whole.get_classifier()(load_encoder(f"timm:resnet10t@{path}").encode(images).pooled)
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)


def test_plain_transformer_takes_any_size(tmp_path: Path) -> None:
    path, _ = weights(tmp_path, "test_vit")
    encoder = load_encoder(f"timm:test_vit@{path}")
    assert encoder.strides == (16,)
    features = encoder.encode(torch.rand(1, 3, 70, 100))
    assert features.levels[0].shape == (1, encoder.channels[0], 5, 7)
    assert features.pooled.shape == (1, encoder.pooled_dim)


def test_torch_file_is_read_and_code_in_it_is_not_run(tmp_path: Path) -> None:
    _, state = weights(tmp_path, "resnet10t")
    torch.save(state, tmp_path / "good.pt")
    torch.save({"state_dict": state, "other": Path("x")}, tmp_path / "bad.pt")
    assert load_encoder(f"timm:resnet10t@{tmp_path / 'good.pt'}").channels == (128, 256, 512)
    with pytest.raises(MissingExtraError, match="cannot have the weights"):
        load_encoder(f"timm:resnet10t@{tmp_path / 'bad.pt'}")


def test_incomplete_or_foreign_weights_are_refused(tmp_path: Path) -> None:
    _, state = weights(tmp_path, "resnet10t")
    partial = {key: value.contiguous() for key, value in state.items() if key != "layer1.0.conv1.weight"}
    save_file(partial, tmp_path / "partial.safetensors")
    with pytest.raises(MissingExtraError, match=r"1 tensors missing \['layer1.0.conv1.weight'\]"):
        load_encoder(f"timm:resnet10t@{tmp_path / 'partial.safetensors'}")
    save_file({**partial, "layer1.0.conv1.weight": state["layer1.0.conv1.weight"], "z": torch.zeros(1)},
              tmp_path / "more.safetensors")  # fmt: skip
    with pytest.raises(MissingExtraError, match=r"1 unknown \['z'\]"):
        load_encoder(f"timm:resnet10t@{tmp_path / 'more.safetensors'}")


def test_missing_file_and_missing_network_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingExtraError, match="no such file"):
        load_encoder(f"timm:resnet10t@{tmp_path / 'none.pt'}")
    create = timm.create_model

    def offline(model: str, pretrained: bool = False, **options: object) -> object:
        if pretrained:
            raise OSError("Name or service not known")
        return create(model, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(MissingExtraError, match="Give a local file: timm:resnet10t@PATH"):
        load_encoder("timm:resnet10t")


def test_model_without_published_weights_is_never_random() -> None:
    with pytest.raises(MissingExtraError, match="cannot have the weights"):
        load_encoder("timm:resnet200")


@pytest.mark.parametrize(
    ("name", "message"), [("resnt18", "Did you mean 'resnet18'"), ("resnet18.nothing", "Valid: resnet18.a1_in1k")]
)
def test_unknown_models(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        load_encoder(f"timm:{name}")
