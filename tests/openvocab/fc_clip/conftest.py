"""A tiny FC-CLIP: timm's test ConvNeXt and a narrow text tower in open_clip, with weights drawn by their names."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.factory import _MODEL_CONFIG_PATHS, _rescan_model_configs
from torch import Tensor

from kc.openvocab.fc_clip.checkpoint import official_key
from kc.openvocab.fc_clip.network import FcClip
from kc.openvocab.fc_clip.options import FcClipConfig

CLIP = "convnext_large_kc_tiny"
TOWER = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 64}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
CONFIG = FcClipConfig(
    clip=CLIP, width=32, mask_width=32, queries=6, heads=4, pixel_layers=2, pixel_ffn=24, layers=4, ffn=40
)


def value_of(name: str, shape: tuple[int, ...]) -> Tensor:
    """Repeatable weights: drawn from a generator seeded by the authors' name of the weight; norms stay near 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    table = any(part in name for part in ("query_", "embedding", "level_embed"))
    fan = int(np.prod(shape[1:])) if len(shape) > 1 and not table else 1
    scaled = draw / np.sqrt(fan) if len(shape) > 1 else 0.1 * draw
    if "predictor" in name and any(part in name for part in ("out_proj", "linear2")):
        scaled = 0.3 * scaled  # else attention makes all queries alike
    if name.endswith("logit_scale"):
        scaled = np.asarray(3.0)
    elif "norm" in name and name.endswith("weight"):
        scaled = 1 + scaled
    return torch.from_numpy(np.asarray(scaled, dtype=np.float32))


def authors_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A checkpoint with the official keys and shapes."""
    return {name: value_of(name, shape) for name, shape in shapes.items()}


def authors_shapes(network: FcClip) -> dict[str, tuple[int, ...]]:
    """Their names and shapes of a network of ours."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key, value in network.state_dict().items():
        name, third = official_key(key)
        shapes[name] = tuple(value.shape) if third is None else (3 * value.shape[0], *value.shape[1:])
    return shapes


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name under which open_clip knows the tiny model."""
    path = tmp_path_factory.mktemp("fc-clip-models")
    (path / f"{CLIP}.json").write_text(json.dumps({"embed_dim": 12, "vision_cfg": TOWER, "text_cfg": TEXT}))
    before = list(_MODEL_CONFIG_PATHS)
    open_clip.add_model_config(path)
    yield CLIP
    _MODEL_CONFIG_PATHS[:] = before
    _rescan_model_configs()


@pytest.fixture(scope="session")
def authors_file(tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny model as detectron2 writes it."""
    path = tmp_path_factory.mktemp("fc-clip") / "model.pth"
    state = authors_state(authors_shapes(FcClip(CONFIG)))
    torch.save({"model": {**state, "criterion.empty_weight": torch.ones(134)}, "iteration": 3}, path)
    return path
