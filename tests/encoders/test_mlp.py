"""The perceptron: shapes, the same weights for everyone, other weights for who trains."""

from __future__ import annotations

import pytest
import torch

from kc.encoders.load import load_encoder
from kc.encoders.mlp import Mlp


def test_pooled_by_hand() -> None:
    encoder = Mlp.load("5x2")
    images = torch.rand(2, 3, 64, 64)
    grey = images.mean(1).view(2, 32, 2, 32, 2).mean((2, 4)).flatten(1)
    x = (grey - 0.1) / 0.2752
    for i in (0, 2):
        layer = encoder.network[i]
        x = torch.relu(x @ layer.weight.T + layer.bias)
    features = encoder(images)
    torch.testing.assert_close(features.pooled, x)
    assert features.levels == ()
    assert (encoder.pooled_dim, encoder.channels) == (5, ())


def test_loading_is_the_same_everywhere_and_moves_no_generator() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = load_encoder("mlp:400x2")
    assert torch.equal(torch.rand(1), expected)
    assert first.fingerprint == load_encoder("mlp:400x2").fingerprint != load_encoder("mlp:400x1").fingerprint


def test_who_trains_draws_weights() -> None:
    encoder = Mlp.load("4x1")
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        network = encoder.to_train()
        assert all(p.requires_grad for p in network.parameters())
        weights.append(network.state_dict()["network.0.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], encoder.state_dict()["network.0.weight"])


@pytest.mark.parametrize("size", ["64", "28"])
def test_any_input_size(size: str) -> None:
    assert Mlp.load("4x1")(torch.rand(1, 3, int(size), int(size))).pooled.shape == (1, 4)
