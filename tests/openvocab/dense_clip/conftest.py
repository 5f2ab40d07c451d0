"""A tiny open_clip vision transformer whose weights are a formula, so that numbers made elsewhere can be compared."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.factory import _MODEL_CONFIG_PATHS, _rescan_model_configs
from open_clip.transformer import QuickGELU, VisionTransformer
from safetensors.torch import save_file
from torch import Tensor

from kc.encoders.load import load_encoder
from kc.encoders.open_clip_model import OpenClipEncoder
from kc.openvocab.dense_clip.protocol import PRESETS


def wave(*shape: int, rate: float, shift: float = 0.0) -> Tensor:
    """sin(rate k^2 + shift) for k = 1, 2, ...: full-rank matrices that every machine computes alike; float64."""
    k = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return torch.sin(k * k * rate + shift).view(shape)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on two busy cores wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_visual() -> Callable[..., Any]:
    """Towers of 3 blocks, width 16, 2 heads, patches of 8, 4 output channels; `image_size` 24 unless told otherwise."""

    def make(**changes: Any) -> Any:
        settings: dict[str, Any] = {
            "image_size": 24, "patch_size": 8, "width": 16, "layers": 3, "heads": 2, "mlp_ratio": 4.0, "output_dim": 4,
            "act_layer": QuickGELU, "output_tokens": True,
        }  # fmt: skip
        visual = VisionTransformer(**(settings | changes)).eval()
        for name, parameter in sorted(visual.named_parameters()):
            values = wave(*parameter.shape, rate=0.7 + 0.01 * len(name), shift=sum(name.encode()) % 97)
            if ".ln_" in f".{name}":
                values = values * 0.2 + (1.0 if name.endswith("weight") else 0.0)
            else:
                values = values * 2.0 / math.sqrt(parameter.shape[-1])
            parameter.data.copy_(values)
        return visual

    return make


@pytest.fixture
def make_images() -> Callable[..., Tensor]:
    """Normalised images (N, 3, H, W) float32 in [-1, 1]."""
    return lambda n, height, width: wave(n, 3, height, width, rate=0.31).float()


@pytest.fixture
def make_features() -> Callable[..., Tensor]:
    """Values (N, C, h, w) float32 in [-1, 1]: dense features of another model, or class scores."""
    return lambda *shape: wave(*shape, rate=0.17, shift=1.0).float()


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Tensor]:
    """Numbers of the authors' public code on `make_visual()` and one `make_images(1, 24, 24)`; each with repository and
    commit in golden.json. Made with QuickGELU where a repository leaves the activation open."""
    stored = json.loads((Path(__file__).parent / "golden.json").read_text())
    return lambda name: torch.tensor(stored[name]["values"]).view(stored[name]["shape"])


TINY = {
    "embed_dim": 12,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A random CLIP of 4 blocks on 4 x 4 patches, as a name for `load_encoder`: `open_clip:kc-tiny-clip@FILE`."""
    folder = tmp_path_factory.mktemp("tiny-clip")
    (folder / "kc-tiny-clip.json").write_text(json.dumps(TINY))
    before = list(_MODEL_CONFIG_PATHS)
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    network = open_clip.create_model("kc-tiny-clip")
    save_file(network.state_dict(), folder / "weights.safetensors")
    yield f"open_clip:kc-tiny-clip@{folder / 'weights.safetensors'}"
    _MODEL_CONFIG_PATHS[:] = before
    _rescan_model_configs()


@pytest.fixture
def clip_encoder(tiny_clip: str) -> OpenClipEncoder:
    """The encoder of `tiny_clip`."""
    encoder = load_encoder(tiny_clip)
    assert isinstance(encoder, OpenClipEncoder)
    return encoder


@pytest.fixture
def small_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    """`whole-image` at 48 pixels: at its own 336 the tiny tower of patches of 8 would have 2,600 tokens."""
    monkeypatch.setitem(PRESETS, "whole-image", dataclasses.replace(PRESETS["whole-image"], short_side=48))
