"""The network and the loss are those of `transformers`, to the last digit; published folders are read or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Mask2FormerForUniversalSegmentation

from kc.encoders.lite import Lite0
from kc.encoders.mlp import Mlp
from kc.errors import KcError, MissingExtraError
from kc.methods.finetune.mask_head import MaskLoss, mask_sets
from kc.methods.finetune.mask_network import MEAN, STD, Queries, load_mask_network, tiny_config
from kc.types import Features


@pytest.fixture(scope="module")
def whole() -> Mask2FormerForUniversalSegmentation:
    torch.manual_seed(0)
    config = tiny_config()
    config.num_labels = 3
    return Mask2FormerForUniversalSegmentation(config).eval()


@pytest.fixture(scope="module")
def folder(whole: Mask2FormerForUniversalSegmentation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mask2former")
    whole.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def lite0() -> Lite0:
    return Lite0.load()


def test_outputs_and_loss_are_those_of_transformers(whole: Mask2FormerForUniversalSegmentation, folder: Path) -> None:
    network = load_mask_network(str(folder)).eval()
    images = torch.rand(2, 3, 32, 64)
    labels = torch.arange(4).repeat_interleave(16).repeat(2, 32, 1)
    normal = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    sets = mask_sets({"semantic": labels}, {1: 1, 2: 2, 3: 3})
    with torch.no_grad():
        torch.manual_seed(1)
        reference = whole(
            pixel_values=normal,
            mask_labels=[m for m, _ in sets],
            class_labels=[c - 1 for _, c in sets],
            output_auxiliary_logits=True,
        )
        queries = network(Features(images))
        torch.testing.assert_close(queries.masks[-1], reference.masks_queries_logits)
        # transformers has "no object" last, a growing head has it first.
        classes = [whole.class_predictor(s).roll(1, dims=-1) for s in queries.states]
        torch.testing.assert_close(classes[-1].roll(-1, dims=-1), reference.class_queries_logits)
        torch.manual_seed(1)
        loss = MaskLoss(network.model.config, 3)(classes, queries, sets)
    torch.testing.assert_close(loss, reference.loss.squeeze())


def test_the_loss_tells_no_object_from_a_class() -> None:
    """The first query fits the one mask: a wrong class there, and a class for the other, cost twice (30 + 3) / 1.1."""
    masks = torch.full((1, 2, 4, 4), -20.0)
    masks[0, 0, :2] = 20.0
    truth = torch.zeros(1, 4, 4)
    truth[0, :2] = 1
    criterion = MaskLoss(tiny_config(), 2)
    good = torch.tensor([[[0.0, 0.0, 30.0], [30.0, 0.0, 0.0]]])
    swapped = good.flip(-1)

    def loss(classes: torch.Tensor) -> float:
        return criterion([classes], Queries((classes,), (masks,)), [(truth, torch.tensor([2]))]).item()

    torch.manual_seed(0)
    low = loss(good)
    torch.manual_seed(0)
    assert loss(swapped) - low == pytest.approx(2 * 33 / 1.1, rel=1e-3)


def test_missing_weights_are_listed_and_a_missing_folder_is_one_error(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    gone = next(k for k in weights if "queries_embedder" in k)
    save_file({k: v for k, v in weights.items() if k != gone}, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(MissingExtraError, match="queries_embedder"):
        load_mask_network(str(broken))
    with pytest.raises(MissingExtraError, match="save_pretrained"):
        load_mask_network(str(tmp_path / "none"))


def test_over_an_encoder_only_the_backbone_has_learned(lite0: Lite0) -> None:
    """The copy has the encoder's weights and makes its levels; the rest is as transformers starts it."""
    torch.manual_seed(0)
    network = load_mask_network("encoder", lite0).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        levels = network.backbone(images).feature_maps
        queries = network(Features(images))
        cached = network(Features(images[:, 0, 0], levels, (4, 8, 16, 32)))
    assert torch.equal(cached.masks[-1], queries.masks[-1])
    assert [tuple(x.shape[1:]) for x in levels] == [(24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]
    for level, wanted in zip(levels[1:], lite0.encode(images).levels, strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-4, atol=1e-4)
    assert queries.masks[-1].shape == (2, 20, 16, 24)
    decoder = network.model.pixel_level_module.decoder
    assert all(p.isfinite().all() and p.abs().max() < 10 for p in decoder.parameters())
    first = decoder.encoder.layers[0].self_attn  # offsets start as a grid of up to n_points, weights as even ones
    assert first.sampling_offsets.bias.abs().max() == first.n_points
    assert not first.attention_weights.weight.any()
    network.backbone.pyramid.encoder.network.conv_stem.weight.data.zero_()
    assert lite0.network.conv_stem.weight.any()


def test_an_encoder_without_levels_is_refused() -> None:
    with pytest.raises(KcError, match="reads three"):
        load_mask_network("encoder", Mlp(4, 1))
