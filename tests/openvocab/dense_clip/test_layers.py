"""The automatic choice of blocks: by hand, and on towers that were given global tokens at a known block."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kc.openvocab.dense_clip.rows import ROWS
from kc.openvocab.dense_clip.study import calibration_images, choose, emergence_layer, find, resolve

Make = Callable[..., Any]


def test_choice_by_hand() -> None:
    """Twelve blocks whose entropy falls most at block 6: what the paper sets by hand for ViT-B/16."""
    entropy = [0.99, 0.99, 0.98, 0.97, 0.96, 0.95, 0.80, 0.78, 0.77, 0.75, 0.74, 0.30]
    z = [3.0, 2, 2, 2, 4, 9, 20, 30, 30, 25, 20, 40]
    found = choose(entropy, z)
    assert (found.emergence, found.fuse_layers, found.cs_layers) == (6, (6, 7), (6, 7, 8, 9, 10))
    z[8] = 5.9  # no outlier there
    assert choose(entropy, z).cs_layers == (6, 7, 9, 10)


def test_the_last_block_is_never_chosen() -> None:
    assert emergence_layer([0.9, 0.8, 0.1]) == 1
    found = choose([0.9, 0.89, 0.5, 0.4], [10.0] * 4)
    assert (found.emergence, found.fuse_layers, found.cs_layers) == (2, (2,), (2,))
    assert emergence_layer([0.9, 0.9, 0.9, 0.9]) == 1
    with pytest.raises(ValueError, match="at least 3 blocks, got 2"):
        emergence_layer([0.9, 0.8])


def with_global_tokens(visual: Any, at: int) -> Any:
    """Blocks before `at` attend evenly; from there on queries and keys are long, so that few patches draw all."""
    for layer, block in enumerate(visual.transformer.resblocks):
        block.attn.in_proj_weight.data[:32] *= 0.0 if layer < at else 12.0
        block.attn.in_proj_bias.data[:32] *= 0.0
    return visual


@pytest.mark.parametrize("at", [1, 2, 3])
def test_emergence_is_found(at: int, make_visual: Make, make_images: Make) -> None:
    visual = with_global_tokens(make_visual(layers=5), at)
    visual.transformer.resblocks[3].mlp.c_proj.weight.data[5] *= 100
    found = find(visual, make_images(2, 24, 24))
    assert found.emergence == at
    assert found.fuse_layers == ((at, at + 1) if at < 3 else (3,))
    assert found.cs_layers == ((3,) if at <= 3 else ())
    assert found.entropy[:at] == pytest.approx([1.0] * at)
    assert found.z[3] == max(found.z) > 20


def test_only_what_is_open_is_filled_in(make_visual: Make, make_images: Make) -> None:
    visual, images = with_global_tokens(make_visual(layers=5), 2), make_images(1, 24, 24)
    found = find(visual, images)
    row = resolve(ROWS["gclip"], visual, lambda: images)
    assert (row.fuse_layers, row.cs_layers) == (found.fuse_layers, found.cs_layers)
    assert row.fuse_layers
    row = resolve(dataclasses.replace(ROWS["gclip"], fuse_layers=(0,)), visual, lambda: images)
    assert (row.fuse_layers, row.cs_layers) == ((0,), found.cs_layers)
    for name in ("clip", "naclip"):
        assert resolve(ROWS[name], visual, lambda: images) is ROWS[name]


def test_calibration_images_are_photographs() -> None:
    images = calibration_images((24, 40), (0.5, 0.4, 0.3, 0.25, 0.25, 0.25))
    assert images.shape == (4, 3, 24, 40)
    assert math.isclose(float(images[:, 0].min()), -2.0, abs_tol=0.15)
    raw: Tensor = images * 0.25 + torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    assert 0 <= float(raw.min()) < float(raw.max()) <= 1
    assert len({round(float(image.mean()), 4) for image in raw}) == 4
