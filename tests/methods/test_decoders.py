"""Decoders: what they read, a batch of one, and that every kind of encoder trains with each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from open_clip.model import set_model_preprocess_cfg
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from kc.encoders.base import Encoder
from kc.encoders.cache import FeatureCache
from kc.encoders.lite import Lite0
from kc.encoders.open_clip_model import OpenClipEncoder
from kc.encoders.timm_model import TimmEncoder
from kc.encoders.torchvision_model import TorchvisionResNet
from kc.errors import UnknownNameError
from kc.methods.base import Context
from kc.methods.finetune.decoders import DeepLab, decoder_of
from kc.methods.finetune.plop import Plop
from kc.methods.training_options import Training
from kc.types import HIDDEN, ClassInfo, Features, Task


def features(n: int, size: int = 4) -> Features:
    torch.manual_seed(0)
    return Features(torch.zeros(n, 1), (torch.randn(n, 6, size, size), torch.randn(n, 8, size, size)), (8, 16))


def test_deeplab_is_torchvisions_head_up_to_its_last_convolutions() -> None:
    torch.manual_seed(0)
    whole = DeepLabHead(8, 3, (6, 12, 18)).eval()
    decoder = DeepLab((6, 8)).eval()
    decoder.aspp.load_state_dict(whole[0].state_dict())
    given = features(2)
    with torch.no_grad():
        assert torch.equal(decoder(given), whole[0](given.levels[-1]))
    assert decoder.width == 256


def test_a_batch_of_one_trains() -> None:
    """The image-wide branch has one value a channel then; its statistics stay as they are."""
    decoder = DeepLab((6, 8)).train()
    norm = decoder.aspp.convs[-1][2]
    before = norm.running_mean.clone()
    assert decoder(features(1)).shape == (1, 256, 4, 4)
    assert torch.equal(norm.running_mean, before)
    assert norm.training
    decoder(features(2))
    assert not torch.equal(norm.running_mean, before)


def test_names() -> None:
    assert decoder_of("fpn", (6, 8))[2] == 2
    assert decoder_of("deeplabv3", (6, 8))[1:] == (256, 16)
    with pytest.raises(UnknownNameError, match="Did you mean 'deeplabv3'"):
        decoder_of("deeplab", (6, 8))


def tiny_clip() -> OpenClipEncoder:
    tower = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim=12, vision_cfg=tower, text_cfg=text)
    set_model_preprocess_cfg(model, {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    return OpenClipEncoder("tiny", model)


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "lite0": Lite0,
    "timm convolutional": lambda: TimmEncoder("resnet10t", timm.create_model("resnet10t", num_classes=0)),
    "timm transformer": lambda: TimmEncoder(
        "test_vit", timm.create_model("test_vit", num_classes=0, dynamic_img_size=True, dynamic_img_pad=True)
    ),
    "open_clip": tiny_clip,
    "torchvision": lambda: TorchvisionResNet("resnet50"),
}


@pytest.mark.parametrize("decoder", ["fpn", "deeplabv3"])
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_trains_with_every_decoder(name: str, decoder: str, tmp_path: Path) -> None:
    """Two tasks of plop with `--train full`: the first weight of the encoder moves, the old model's does not."""
    torch.manual_seed(0)
    encoder = ENCODERS[name]().eval()
    classes = {c: ClassInfo(c, str(c)) for c in range(3)}
    config = Training(train="full", decoder=decoder)
    method = Plop(Context("semantic", classes, encoder, FeatureCache(tmp_path, encoder), config, 0, tmp_path))
    images: dict[str, Any] = {"image": torch.rand(2, 3, 64, 64), "sample_id": ["a", "b"]}
    for task in (Task(0, (0, 1), (0, 1), ("0", "1")), Task(1, (2,), (0, 1, 2), ("2",))):
        labels = torch.tensor([HIDDEN, *task.class_ids])[torch.randint(2, (2, 64, 64))]
        batch = {**images, "semantic": labels}
        method.start_task(task)
        method.task_batches = lambda batch=batch: iter([batch])  # type: ignore[method-assign, misc]
        method.on_train_start()
        optimizer = torch.optim.SGD(method.trained().values(), lr=1e-3)
        loss = method.loss_on(batch)
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
    assert method.network is not None
    assert method.previous is not None
    moved, still = next(method.network.parameters()), next(method.previous.network.parameters())
    assert moved.grad is not None
    assert moved.grad.abs().sum() > 0
    assert not torch.equal(moved, still)
    method.end_task(task)
    method.eval()
    given = {**images, "original_size": [(64, 64)] * 2}
    assert method.predict(given, (0, 1, 2)).semantic[0].shape == (64, 64)
