"""Training: what learns, what does not, that the loss leads to the right answer, that masks stay with their image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kc.errors import KcError
from kc.openvocab.dense_clip.text import TextBank
from kc.openvocab.fc_clip.base import FcClipBase
from kc.openvocab.fc_clip.geometry import MEAN, STD
from kc.openvocab.fc_clip.network import FcClip
from kc.openvocab.fc_clip.options import FcClipOptions
from kc.openvocab.fc_clip.training import (
    GREY,
    FcClipLoss,
    Recipe,
    clip_gradients,
    example,
    jitter,
    labels_of,
    optimizer_for,
    parameter_groups,
)
from kc.types import VOID, Sample

from .conftest import CONFIG

NAMES = (("red thing", "red"), ("green thing",), ("blue thing",))
COLORS = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220]], np.uint8)


@pytest.fixture
def network(tiny_clip: str) -> FcClip:
    torch.manual_seed(0)
    return FcClip(CONFIG, names=NAMES).train()


def halves() -> tuple[np.ndarray, np.ndarray]:
    """Two images (2, 64, 64, 3) of two colours each, and the class of every pixel (2, 64, 64)."""
    labels = np.zeros((2, 64, 64), np.int64)
    labels[0, :, 32:] = 1
    labels[1, :32], labels[1, 32:] = 2, 0
    return COLORS[labels], labels


def as_input(images: np.ndarray) -> Tensor:
    mean, std = torch.tensor([MEAN, STD]).view(2, 1, 3, 1, 1)
    return (torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() - mean) / std


def loss_of(network: FcClip, points: int = 512) -> FcClipLoss:
    bank = TextBank(FcClipBase("fc-clip", network).encoder, "vild14")
    network.train()
    text = bank.embed([name for names in NAMES for name in names])
    return FcClipLoss(network, text, [len(names) for names in NAMES], points)


def test_it_learns_two_images(network: FcClip) -> None:
    images, labels = halves()
    targets = []
    for own in labels:
        found = np.unique(own)
        targets.append((torch.from_numpy(own == found[:, None, None]).float(), torch.from_numpy(found)))
    loss, recipe = loss_of(network, 256), Recipe(lr=3e-3, clip_grad=1.0)
    frozen = {key: value.clone() for key, value in network.clip.state_dict().items()}
    optimizer = optimizer_for(network, recipe)
    values = []
    for _ in range(45):
        optimizer.zero_grad()
        value = loss(as_input(images), targets)
        value.backward()
        clip_gradients(network, recipe)
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.35 * values[0]
    assert all(torch.equal(value, frozen[key]) for key, value in network.clip.state_dict().items())
    # CLIP here is random: the trained head alone answers.
    base = FcClipBase("fc-clip", network, FcClipOptions(0.0, 0.0, 64, 64))
    for image, own in zip(images, labels, strict=True):
        assert (base.segment(image, "a", NAMES, None) == own).mean() > 0.95
        panoptic = base.panoptic(image, "a", NAMES, range(3), [0, 1, 2])
        assert (panoptic[..., 0] == own).mean() > 0.9
        found = base.instances(image, "a", NAMES, range(3), [0, 1, 2])
        assert float(found.scores[0]) > 0.5
        assert set(found.class_ids[:2].tolist()) == set(np.unique(own).tolist())


def test_what_learns_and_what_decays(network: FcClip) -> None:
    decays, stays = parameter_groups(network, Recipe())
    learns = {id(p) for group in (decays, stays) for p in group["params"]}
    wanted = {id(p) for key, p in network.named_parameters() if not key.startswith("clip.")}
    assert learns == wanted
    plain = {id(p) for p in stays["params"]}
    for key, parameter in network.named_parameters():
        if id(parameter) in learns and any(part in key for part in ("norm", "queries_", "level_embed.weight", "void")):
            assert id(parameter) in plain
    assert (stays["weight_decay"], decays["weight_decay"]) == (0.0, 0.05)
    assert id(network.class_head.layers[0].weight) not in plain
    assert not network.clip.training


def test_an_image_without_masks_teaches_no_object_only(network: FcClip) -> None:
    empty = (torch.zeros(0, 64, 64), torch.zeros(0, dtype=torch.int64))
    images, _ = halves()
    terms = loss_of(network).terms(network(as_input(images), all_stages=True), [empty, empty])
    assert all(float(value.detach()) == 0 for key, value in terms.items() if "cross" not in key)
    assert all(float(value.detach()) > 0 for key, value in terms.items() if "cross" in key)
    with pytest.raises(KcError, match="masks of"):
        loss_of(network).terms(network(as_input(images), all_stages=True), [(torch.zeros(1, 32, 64), empty[1])] * 2)


def test_a_new_network_is_set_everywhere(tiny_clip: str) -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(1)
        made.append(FcClip(CONFIG).state_dict())
    learned = [key for key in made[0] if not key.startswith("clip.")]
    assert all(torch.equal(made[0][key], made[1][key]) and made[0][key].isfinite().all() for key in learned)


def test_jitter_keeps_image_and_labels_together() -> None:
    images, labels = halves()
    marked = np.stack([labels[0], np.zeros_like(labels[0])], -1).astype(np.int32)
    sizes = set()
    for seed in range(12):
        image, found = jitter(images[0], marked, 96, (0.5, 2.0), np.random.default_rng(seed))
        assert image.shape == (96, 96, 3)
        inside = found[..., 0] != VOID
        sizes.add(int(inside.sum()))
        assert (image[~inside] == GREY).all()
        nearest = np.abs(image[inside].astype(int)[:, None] - COLORS[None].astype(int)).sum(-1).argmin(1)
        assert (nearest == found[inside][:, 0]).mean() > 0.97
    assert len(sizes) > 4
    assert max(sizes) == 96 * 96


def test_examples_leave_out_crowds_void_and_unknown_classes() -> None:
    panoptic = np.zeros((40, 40, 2), np.int32)
    panoptic[..., 0] = 5
    panoptic[:10] = (7, 1)
    panoptic[10:20] = (7, 2)
    panoptic[20:25] = (9, 3)
    panoptic[30:] = (VOID, 0)
    sample = Sample("a", np.zeros((40, 40, 3), np.uint8), panoptic=panoptic, crowd=frozenset({2}))
    image, (masks, positions) = example(sample, {5: 1, 7: 0}, 64, (1.0, 1.0), np.random.default_rng(0))
    assert tuple(image.shape) == (3, 64, 64)
    assert positions.tolist() == [1, 0]
    assert masks.sum((1, 2)).tolist() == [64 * 8, 64 * 16]
    semantic = Sample("b", sample.image, semantic=panoptic[..., 0].astype(np.int64))
    assert (labels_of(semantic)[..., 1] == 0).all()
