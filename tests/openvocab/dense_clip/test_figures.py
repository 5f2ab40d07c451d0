"""Tensors written for study come back as they were; figures are images that show what was asked."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from kc.errors import RunError
from kc.openvocab.dense_clip.figures import (
    global_tokens,
    mean_similarity,
    norm_profile,
    save_attention,
    similarity_lines,
)
from kc.openvocab.dense_clip.model import DenseClip
from kc.openvocab.dense_clip.rows import ROWS
from kc.openvocab.dense_clip.study import Similarity, trace

Make = Callable[..., Any]


def test_save_attention(tmp_path: Path, make_visual: Make, make_images: Make) -> None:
    row = dataclasses.replace(ROWS["gclip"], fuse_layers=(1,), cs_layers=(0,))
    model, images = DenseClip(make_visual(), row), make_images(2, 16, 24)
    save_attention(model, images, tmp_path / "a" / "attention.safetensors")
    with safe_open(tmp_path / "a" / "attention.safetensors", framework="pt") as file:
        assert file.metadata() == {"row": row.key, "grid": "2x3"}
        keys = {f"{kind}_0{i}" for kind in ("attention", "values") for i in range(3)} | {"last"}
        assert set(file.keys()) == keys
        for block in trace(model, images):
            stored = file.get_tensor(f"attention_0{block.layer}")
            torch.testing.assert_close(stored.float(), block.attention, atol=1e-3, rtol=1e-3)
            assert file.get_tensor(f"values_0{block.layer}").shape == (2, 7, 16)
        with torch.no_grad():
            torch.testing.assert_close(file.get_tensor("last").float(), model.weights(images), atol=1e-3, rtol=1e-3)
    with pytest.raises(RunError, match="cannot write"):
        save_attention(model, images, tmp_path / "a" / "attention.safetensors" / "below")


def test_figures_are_images(tmp_path: Path, make_visual: Make, make_images: Make) -> None:
    model = DenseClip(make_visual(), ROWS["clip"])
    global_tokens(model, make_images(1, 24, 24), np.full((24, 24, 3), 90, np.uint8), tmp_path / "tokens.png")
    norm_profile(model, tmp_path / "norms.png")
    lines = {"clip": [Similarity(0.5, 0.1)] * 3, "suppressed": [Similarity(0.7, math.nan)] * 3}
    similarity_lines(lines, tmp_path / "similarity.png")
    for name in ("tokens", "norms", "similarity"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 200
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_mean_similarity() -> None:
    nan = math.nan
    each = [[Similarity(0.2, nan), Similarity(nan, nan)], [Similarity(0.4, 0.5), Similarity(nan, 0.1)]]
    found = mean_similarity(each)
    assert found[0] == Similarity(pytest.approx(0.3), 0.5)
    assert math.isnan(found[1].inside)
    assert found[1].across == pytest.approx(0.1)
    assert mean_similarity([]) == []
