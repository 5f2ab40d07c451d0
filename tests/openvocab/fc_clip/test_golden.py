"""The authors' code and ours on the same weights, part by part. `golden.json` says where its numbers come from."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kc.openvocab.base import plain_name, seen_in
from kc.openvocab.dense_clip.text import TextBank
from kc.openvocab.fc_clip.base import FcClipBase
from kc.openvocab.fc_clip.checkpoint import load_fc_clip, official_key
from kc.openvocab.fc_clip.geometry import MEAN, STD, Frame
from kc.openvocab.fc_clip.network import FcClip, ensemble, levels, name_logits, with_void
from kc.openvocab.fc_clip.training import FcClipLoss
from kc.openvocab.mask_inference import instances, panoptic_map
from kc.types import VOID

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("golden.json").read_text())
TRAINED = (("person", "man"), ("sky",), ("big dog", "dog"))
VOCABULARY = (("person", "child"), ("sky", "blue sky"), ("unicorn",), ("tree", "trees", "a green tree"))
FRAME = Frame((40, 56), (50, 70))


@pytest.fixture(scope="module")
def network(authors_file: Path, tiny_clip: str) -> FcClip:
    loaded = load_fc_clip(authors_file, tiny_clip)
    loaded.names = TRAINED
    return loaded


@pytest.fixture(scope="module")
def images() -> Tensor:
    y, x = np.mgrid[:50, :70]
    plain = np.stack([(3 * x + y) % 256, (5 * y) % 256, ((x - 30) ** 2 + (y - 20) ** 2) // 4 % 256], -1)
    noise = np.random.default_rng(7).integers(-20, 20, plain.shape)
    image = np.clip(plain + noise, 0, 255).astype(np.float32).transpose(2, 0, 1)
    mean, std = torch.tensor([MEAN, STD]).view(2, 3, 1, 1)
    return F.pad((torch.from_numpy(image) - mean) / std, (0, 26, 0, 14))[None]


@pytest.fixture(scope="module")
def base(network: FcClip) -> FcClipBase:
    return FcClipBase("fc-clip", network)


def same(found: Tensor, golden: list[float], atol: float = 2e-4) -> None:
    flat = found.detach().double().flatten()
    values = [float(flat.mean()), float(flat.std()), *flat[:: max(1, flat.numel() // 6)][:6].tolist()]
    np.testing.assert_allclose(values, golden, rtol=1e-4, atol=atol)


def test_every_key_of_theirs_has_one_of_ours(network: FcClip) -> None:
    keys = sorted({official_key(key)[0] for key in network.state_dict()})
    assert [len(keys), zlib.crc32("\n".join(keys).encode())] == GOLDEN["keys"]


@torch.no_grad()
def test_tower_and_pixel_decoder(network: FcClip, images: Tensor) -> None:
    maps, dense = levels(network.clip.visual, images)
    for found, golden in zip((*maps, dense), GOLDEN["tower"], strict=True):
        same(found, golden)
    out = network.pixel_decoder(list(maps), return_dict=True)
    same(out.mask_features, GOLDEN["mask_features"])
    for found, golden in zip(out.multi_scale_features, GOLDEN["multi_scale"], strict=True):
        same(found, golden)


@torch.no_grad()
def test_text(base: FcClipBase) -> None:
    text, counts = base.text(VOCABULARY)
    same(torch.cat([text, F.normalize(base.network.void.weight, dim=-1)]), GOLDEN["text"], 1e-5)
    assert counts == GOLDEN["counts"]
    trained = {plain_name(name) for names in TRAINED for name in names}
    assert seen_in(VOCABULARY, trained).tolist() == [bool(v) for v in GOLDEN["seen"]]


@torch.no_grad()
def test_decoder_and_class_head_at_every_stage(base: FcClipBase, images: Tensor) -> None:
    network = base.network
    answer = network(images, all_stages=True)
    text, counts = base.text(VOCABULARY)
    for masks, golden in zip(answer.masks, GOLDEN["stage_masks"], strict=True):
        same(masks, golden, 1e-3)
    for classes, golden in zip(answer.classes, GOLDEN["stage_logits"], strict=True):
        same(with_void(classes, text, counts, network.logit_scale, network.void.weight), golden, 1e-3)
    (last,) = network(images).classes
    torch.testing.assert_close(last, answer.classes[-1])


@torch.no_grad()
def scores(base: FcClipBase, images: Tensor) -> tuple[Tensor, Tensor]:
    network = base.network
    answer = network(images)
    text, counts = base.text(VOCABULARY)
    inside = with_void(answer.classes[-1], text, counts, network.logit_scale, network.void.weight)
    outside = name_logits(network.clip_embed(answer.dense, answer.masks[-1]), text, counts, network.clip.logit_scale)
    seen = torch.tensor(GOLDEN["seen"], dtype=torch.bool)
    np.testing.assert_allclose(inside[0].numpy(), GOLDEN["logits"], atol=1e-3)
    return ensemble(inside, outside, seen, 0.4, 0.8)[0], answer.masks[-1][0]


def test_ensemble(base: FcClipBase, images: Tensor) -> None:
    p, _ = scores(base, images)
    golden = torch.tensor(GOLDEN["log_scores"]).softmax(-1)
    np.testing.assert_allclose(p.numpy(), golden.roll(1, -1).numpy(), atol=2e-4)


@torch.no_grad()
def test_post_processing(base: FcClipBase, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from kc.openvocab.fc_clip import base as module

    p, masks = scores(base, images)
    output = module.ImageOutput(FRAME, *(torch.zeros(0),) * 2, masks, *(torch.zeros(0),) * 3)
    monkeypatch.setattr(base, "query_scores", lambda _run, _names: p)
    same(base.semantic_scores(output, VOCABULARY), GOLDEN["semantic"], 2e-3)
    full = module.to_original(masks, FRAME)
    for overlap, things, golden in [[0.8, [0, 1], GOLDEN["panoptic"]], *GOLDEN["panoptic_other"]]:
        made = panoptic_map(p, full, range(4), things, 0.0, overlap)
        pairs, sizes = np.unique(made.reshape(-1, 2), axis=0, return_counts=True)
        found = sorted([int(c), int(n), c in things] for (c, _), n in zip(pairs, sizes, strict=True) if c != VOID)
        assert len(found) == len(golden)
        for mine, other in zip(found, sorted(golden), strict=True):
            assert mine[0] == other[0]
            assert mine[2] == other[2]
            assert abs(mine[1] - other[1]) <= 2
    made_instances = instances(p, full, range(4), [0, 1], top=10)
    golden = GOLDEN["instances"]
    assert made_instances.class_ids.tolist() == [row[0] for row in golden]
    np.testing.assert_allclose(made_instances.scores, [row[1] for row in golden], atol=1e-3)
    np.testing.assert_allclose(made_instances.masks.sum(axis=(1, 2)), [row[2] for row in golden], atol=2)


@torch.no_grad()
def test_losses(base: FcClipBase, images: Tensor) -> None:
    """Points are drawn from one stream of random numbers in one order by both."""
    text, counts = base.text(TRAINED)
    assert counts == GOLDEN["train_counts"]
    loss = FcClipLoss(base.network, text, counts, points=256)
    masks = torch.zeros(2, 64, 96)
    masks[0, :30, :40] = 1
    masks[1, 30:, 10:60] = 1
    answer = base.network(images, all_stages=True)
    torch.manual_seed(3)
    terms = loss.terms(answer, [(masks, torch.tensor([2, 0]))])
    weights = {"ce": 2.0, "mask": 5.0, "dice": 5.0}
    golden = {key: value * weights[key.split("_")[1]] for key, value in GOLDEN["losses"].items()}
    found = {key.replace("cross_entropy", "ce"): float(value) for key, value in terms.items()}
    assert found == pytest.approx(golden, rel=2e-3)


def test_the_bank_reads_the_fourteen_prompts(base: FcClipBase) -> None:
    bank = TextBank(base.encoder, "photo")
    assert not torch.allclose(bank.embed(["sky"]), base.bank.embed(["sky"]), atol=1e-3)
