"""timm encoders with small random weights in a local file."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from kc.encoders.load import load_encoder
from kc.encoders.timm_model import TimmEncoder, own_size
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
    with pytest.raises(MissingExtraError, match=r"bad\.pt: no weights of timm:resnet10t"):
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


DYNAMIC = {"dynamic_img_size": True, "dynamic_img_pad": True}


def small_transformer(name: str, **options: object) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, depth=2, embed_dim=32, num_heads=2, **DYNAMIC, **options).eval()


@pytest.mark.parametrize(
    ("name", "prefix", "patch"),
    [
        ("vit_small_patch14_dinov2", 1, 14),
        ("vit_small_patch14_reg4_dinov2", 5, 14),
        ("vit_small_patch16_dinov3", 5, 16),
    ],
)
def test_levels_are_the_patch_tokens_without_class_and_registers(name: str, prefix: int, patch: int) -> None:
    """At a size that is not the network's own, so that positions are interpolated or, in DINOv3, rotated."""
    network = small_transformer(name)
    encoder = TimmEncoder(name, network)
    assert network.num_prefix_tokens == prefix
    assert encoder.strides == (patch,)
    images = torch.rand(1, 3, 3 * patch, 5 * patch)
    features = encoder.encode(images)
    mean, std = torch.tensor(encoder.preprocessing).view(2, 3, 1, 1)
    with torch.no_grad():
        tokens = network.forward_features((images - mean) / std)
    assert tokens.shape == (1, prefix + 15, 32)
    wanted = tokens[0, prefix:].T.reshape(32, 3, 5)
    torch.testing.assert_close(features.levels[0][0], wanted)


def test_position_embeddings_are_interpolated_to_the_grid() -> None:
    """With nothing but positions left, a slope over the rows of its own grid is the same slope over another grid."""
    network = small_transformer("vit_small_patch14_reg4_dinov2")
    network.norm = torch.nn.Identity()
    with torch.no_grad():
        for part in (
            network.patch_embed.proj,
            *(scale for block in network.blocks for scale in (block.ls1, block.ls2)),
        ):
            for parameter in part.parameters():
                parameter.zero_()
        network.pos_embed[0] = torch.linspace(-1, 1, 37).repeat_interleave(37)[:, None]
    level = TimmEncoder("vit", network).encode(torch.rand(1, 3, 9 * 14, 5 * 14)).levels[0][0, 0]
    assert level.shape == (9, 5)
    torch.testing.assert_close(level, level[:, :1].expand(9, 5))
    # Cell centres of nine rows on the slope of 37, which runs from -1 to 1 between its outermost centres.
    wanted = ((torch.arange(9) + 0.5) / 9 * 37 - 0.5) / 18 - 1
    torch.testing.assert_close(level[1:-1, 0], wanted[1:-1], atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_only_networks_of_one_size_resize(name: str) -> None:
    options: dict[str, object] = {"depths": (1, 1, 1, 1), "embed_dim": 12, "num_heads": (1, 2, 3, 4)}
    network = timm.create_model(name, num_classes=0, **(DYNAMIC if name == "test_vit" else options)).eval()
    encoder = TimmEncoder(name, network, own_size(network))
    images = torch.rand(1, 3, 90, 130)
    features = encoder.encode(images)
    if name == "test_vit":
        assert encoder.size is None
        assert features.levels[0].shape[-2:] == (6, 9)
        return
    assert encoder.size == (224, 224)
    assert [tuple(x.shape[-2:]) for x in features.levels] == [(28, 28), (14, 14), (7, 7)]
    resized = torch.nn.functional.interpolate(images, size=(224, 224), mode="bilinear", antialias=True)
    torch.testing.assert_close(features.pooled, encoder.encode(resized).pooled)
    assert encoder.preprocessing[-2:] == (224, 224)
