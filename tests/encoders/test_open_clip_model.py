"""OpenCLIP encoders with a tiny random model in a local file."""

import json
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.factory import _MODEL_CONFIG_PATHS, _rescan_model_configs

from kc.encoders.load import load_encoder
from kc.encoders.open_clip_model import OpenClipEncoder
from kc.errors import MissingExtraError, UnknownNameError

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "kc-tiny-vit": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "kc-tiny-convnext": {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"},
    "kc-tiny-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("open-clip")
    for name, tower in TOWERS.items():
        (path / f"{name}.json").write_text(json.dumps({"embed_dim": 12, "vision_cfg": tower, "text_cfg": TEXT}))
    before = list(_MODEL_CONFIG_PATHS)
    open_clip.add_model_config(path)
    for name in TOWERS:
        torch.manual_seed(0)
        torch.save(open_clip.create_model(name).state_dict(), path / f"{name}.pt")
    yield path
    _MODEL_CONFIG_PATHS[:] = before
    _rescan_model_configs()


@pytest.mark.parametrize(
    ("name", "level", "stride"),
    [
        ("kc-tiny-vit", (2, 32, 4, 4), 8),
        ("kc-tiny-resnet", (2, 512, 2, 2), 32),
        ("kc-tiny-convnext", (2, 64, 2, 2), 32),
    ],
)
def test_towers(folder: Path, name: str, level: tuple[int, ...], stride: int) -> None:
    encoder = load_encoder(f"open_clip:{name}@{folder / name}.pt")
    features = encoder.encode(torch.rand(2, 3, 48, 40))
    assert tuple(features.levels[0].shape) == level
    assert encoder.strides == features.strides == (stride,)
    assert encoder.channels == level[1:2]
    assert features.pooled.shape == (2, encoder.pooled_dim) == (2, 12)
    assert encoder.fingerprint.startswith(f"open_clip:{name}:")


def test_both_towers_are_those_of_the_file(folder: Path) -> None:
    encoder = load_encoder(f"open_clip:kc-tiny-vit@{folder / 'kc-tiny-vit.pt'}")
    assert isinstance(encoder, OpenClipEncoder)
    reference = open_clip.create_model("kc-tiny-vit", pretrained=str(folder / "kc-tiny-vit.pt")).eval()
    images = torch.rand(2, 3, 32, 32)
    config = reference.visual.preprocess_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(images).pooled, reference.encode_image((images - mean) / std))
        tokens = open_clip.get_tokenizer("kc-tiny-vit")(["a cat", "a dog"])
        wanted = reference.encode_text(tokens, normalize=True)
    torch.testing.assert_close(encoder.encode_text(["a cat", "a dog"]), wanted)


def test_texts_of_any_length_are_embedded_as_by_the_whole_context(folder: Path) -> None:
    """Only as many tokens pass as the longest text of a call has; the last fills the context of 16."""
    encoder = load_encoder(f"open_clip:kc-tiny-vit@{folder / 'kc-tiny-vit.pt'}")
    assert isinstance(encoder, OpenClipEncoder)
    texts = ["", "a cat", "a photo of one very small dog", "a b c d e f g h i j k l m n o p q r s t"]
    tokens = open_clip.get_tokenizer("kc-tiny-vit")(texts)
    with torch.no_grad():
        wanted = encoder.network.encode_text(tokens, normalize=True)
    for n in range(1, 5):
        torch.testing.assert_close(encoder.encode_text(texts[:n]), wanted[:n])
    lengths = []
    encoder.network.token_embedding.register_forward_hook(lambda _m, inputs, _o: lengths.append(inputs[0].shape[1]))
    encoder.encode_text(texts[:2])
    assert lengths == [4]


def test_a_copy_to_train_is_the_image_tower(folder: Path) -> None:
    encoder = load_encoder(f"open_clip:kc-tiny-vit@{folder / 'kc-tiny-vit.pt'}")
    copied = encoder.to_train()
    assert isinstance(copied, OpenClipEncoder)
    assert all(name.startswith("network.visual.") for name, _ in copied.named_parameters())
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(copied.encode(images).pooled, encoder.encode(images).pooled)
    with torch.no_grad():
        next(copied.parameters()).add_(1)
    assert not torch.equal(copied.encode(images).pooled, encoder.encode(images).pooled)
    assert encoder.network.transformer is not None
    assert all(p.requires_grad for p in copied.parameters())


def test_missing_or_foreign_weights_are_one_clear_error(folder: Path) -> None:
    with pytest.raises(MissingExtraError, match="no such file"):
        load_encoder(f"open_clip:kc-tiny-vit@{folder / 'none.pt'}")
    with pytest.raises(MissingExtraError, match="no weights on the hub"):
        load_encoder("open_clip:kc-tiny-vit")
    with pytest.raises(MissingExtraError, match="cannot have the weights"):
        load_encoder("open_clip:kc-tiny-vit@nonsense")
    with pytest.raises(MissingExtraError, match="no weights of open_clip"):
        load_encoder(f"open_clip:kc-tiny-vit@{folder / 'kc-tiny-resnet.pt'}")


def test_unknown_model() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'ViT-B-32'"):
        load_encoder("open_clip:ViT-B32")


def test_weights_with_quickgelu_need_the_quickgelu_model() -> None:
    """Known before anything is downloaded; OpenAI's are the first weights of ViT-B-16."""
    for name in ("open_clip:ViT-B-16@openai", "open_clip:ViT-B-16"):
        with pytest.raises(UnknownNameError, match="use open_clip:ViT-B-16-quickgelu@openai"):
            load_encoder(name)
