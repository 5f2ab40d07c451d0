"""Attention and values as tensors, entropy, similarity by mask: hand-solved, and against open_clip's own modules."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kc.openvocab.dense_clip.model import DenseClip
from kc.openvocab.dense_clip.rows import ROWS
from kc.openvocab.dense_clip.study import column_entropy, patch_labels, received, trace, value_similarity
from kc.types import VOID


@torch.no_grad()
def test_trace_is_what_open_clips_own_attention_computes(
    make_visual: Callable[..., Any], make_images: Callable[..., Tensor]
) -> None:
    """The weights that nn.MultiheadAttention reports, at the inputs its blocks really get."""
    visual, images = make_visual(), make_images(2, 24, 24)
    inputs: list[Tensor] = []
    hooks = [b.ln_1.register_forward_hook(lambda _m, _i, out: inputs.append(out)) for b in visual.transformer.resblocks]
    visual(images)
    for hook in hooks:
        hook.remove()
    found = list(trace(DenseClip(visual, ROWS["clip"]), images))
    assert [block.layer for block in found] == [0, 1, 2]
    for block, x, module in zip(found, inputs, visual.transformer.resblocks, strict=True):
        _, weights = module.attn(x, x, x, need_weights=True, average_attn_weights=False)
        torch.testing.assert_close(block.attention, weights)
        w, b = module.attn.in_proj_weight[32:], module.attn.in_proj_bias[32:]
        torch.testing.assert_close(block.values, x @ w.T + b)


def test_trace_sees_suppressed_weights(make_visual: Callable[..., Any], make_images: Callable[..., Tensor]) -> None:
    images = make_images(1, 24, 24)
    plain = list(trace(DenseClip(make_visual(), ROWS["clearclip"]), images))
    row = dataclasses.replace(ROWS["clearclip"], cs_layers=(1,))
    changed = list(trace(DenseClip(make_visual(), row), images))
    for layer, same in enumerate((True, True, False)):
        assert torch.equal(plain[layer].values, changed[layer].values) is same


def test_received_and_entropy_by_hand() -> None:
    """Two heads, a class token and two patches; the class token's row and column do not count."""
    attention = torch.tensor([[[[0.2, 0.4, 0.4], [0.5, 0.1, 0.4], [0.0, 0.2, 0.8]],
                               [[1.0, 0.0, 0.0], [0.2, 0.4, 0.4], [0.6, 0.1, 0.3]]]])  # fmt: skip
    # Columns: 0.1 + 0.2 + 0.4 + 0.1 = 0.8 and 0.4 + 0.8 + 0.4 + 0.3 = 1.9, of 2.7.
    share = 0.8 / 2.7
    torch.testing.assert_close(received(attention), torch.tensor([[share, 1 - share]]))
    wanted = -(share * math.log2(share) + (1 - share) * math.log2(1 - share))
    assert column_entropy(attention) == pytest.approx(wanted, rel=1e-5)


def test_entropy_at_its_ends() -> None:
    even = torch.full((1, 2, 5, 5), 0.2)
    assert column_entropy(even) == pytest.approx(1.0, abs=1e-6)
    one = torch.zeros(1, 2, 5, 5)
    one[..., 3] = 1.0
    assert column_entropy(one) == pytest.approx(0.0, abs=1e-6)


def test_value_similarity_by_hand() -> None:
    values = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, -1.0], [5.0, 5.0]])
    found = value_similarity(values, np.array([0, 0, 1, 1, VOID]))
    # Pairs inside: (0, 1) cosine 1, (2, 3) cosine -1; across: all 0.
    assert (found.inside, found.across) == (0.0, 0.0)
    found = value_similarity(values, np.array([0, 0, 1, VOID, 1]))
    assert found.inside == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert found.across == pytest.approx(math.sqrt(0.5) / 2)
    alone = value_similarity(values, np.array([0, 1, VOID, VOID, VOID]))
    assert math.isnan(alone.inside)
    assert alone.across == 1.0
    assert math.isnan(value_similarity(values, np.full(5, VOID)).across)


def test_patch_labels_by_hand() -> None:
    target = np.array([[3, 3, 1, 2], [3, 0, 1, 2], [VOID, VOID, 4, 5], [VOID, 7, 6, 8]])
    found = patch_labels(target, (2, 2))
    # 3 of 4; a tie of 1 and 2 at exactly half; mostly void; a quarter each.
    assert found.tolist() == [3, 1, VOID, VOID]
    assert patch_labels(np.full((3, 5), 2), (1, 2)).tolist() == [2, 2]
