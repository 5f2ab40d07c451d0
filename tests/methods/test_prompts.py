"""Prompts of a frozen mask network, and logit manipulation beside the authors' numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kc.methods.finetune.eclipse import PromptSet, manipulated, where_objects
from kc.methods.finetune.mask_network import load_mask_network
from kc.types import Features

# clovaai/ECLIPSE at 9266720, `forward_prediction_heads` of its transformer decoder with classes [3, 2, 1], one query of
# each step, on wave(1, 5, 7, scale=1.5) - shift: sigmoid of the outcome, "no object" first. It writes 4.5e-5 for 0.
GOLDEN = [
    (1.0, (0.4, 0.6, 0.6), [[0.39363, 0.268941, 0.49529, 0.619972, 0, 0, 0], [0.6, 0, 0, 0, 0.284227, 0.0879, 0],
                            [0.6, 0, 0, 0, 0, 0, 0.162224]]),
    (1.0, (-0.4, -0.6, 0.0), [[0.030385, 0.268941, 0.49529, 0.619972, 0, 0, 0],
                              [0.228639, 0, 0, 0, 0.284227, 0.0879, 0], [0.588049, 0, 0, 0, 0, 0, 0.162224]]),
]  # fmt: skip
LOW = [0.087124571, 0.21049664, 0.187076295]
OWN = [slice(1, 4), slice(4, 6), slice(6, 7)]
QUERIES = [0, 2, 4]


@pytest.mark.parametrize(("shift", "deltas", "expected"), GOLDEN)
def test_logit_manipulation_is_that_of_the_authors(
    shift: float, deltas: tuple[float, ...], expected: list[list[float]], wave: Callable[..., Tensor]
) -> None:
    logits = (wave(1, 5, 7, scale=1.5) - shift).roll(1, -1)[0]
    for query, own, delta, wanted in zip(QUERIES, OWN, deltas, expected, strict=True):
        found = manipulated(logits[query], own, delta)
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_sum_over_other_classes_is_not_their_maximum(wave: Callable[..., Tensor]) -> None:
    """The authors' numbers where nothing is cut off, on wave - 3."""
    logits = (wave(1, 5, 7, scale=1.5) - 3.0).roll(1, -1)[0]
    found = [float(manipulated(logits[q], OWN[s], d)[0]) for q, s, d in ((0, 0, 0.4), (2, 1, 0.6), (4, 2, 0.6))]
    assert found == pytest.approx(LOW, abs=1e-9)


def test_manipulation_by_hand() -> None:
    """Others at 1/2 and 1/4, their own at 3/4: p_0 = delta (1/2 + 1/4), cut off at 1; alone, the own p_0."""
    logits = torch.tensor([0.0, 0.0, -torch.log(torch.tensor(3.0)), torch.log(torch.tensor(3.0))])
    torch.testing.assert_close(manipulated(logits, slice(3, 4), 0.4), torch.tensor([0.3, 0, 0, 0.75]))
    torch.testing.assert_close(manipulated(logits, slice(2, 3), 0.4)[0], torch.tensor(0.4))
    torch.testing.assert_close(manipulated(logits, slice(1, 4), 0.4), logits.sigmoid())


def test_only_queries_that_hold_an_object_name_classes() -> None:
    p = torch.tensor([[0.5, 0.4, 0.3], [0.5, 0.6, 0.3]])
    assert where_objects(p).tolist() == [[0.5, 0, 0], p[1].tolist()]


def test_prompts_start_from_the_network_and_have_a_position_in_every_layer() -> None:
    torch.manual_seed(0)
    network = load_mask_network("tiny").eval()
    part = network.model.transformer_module
    prompts = PromptSet(network, nn.Linear(64, 1), 3)
    n_layers = len(part.decoder.layers)
    assert prompts.positions.shape == (n_layers, 3, 64)
    torch.testing.assert_close(prompts.contents[2], part.queries_features.weight.mean(0))
    torch.testing.assert_close(prompts.positions[1, 0], part.queries_embedder.weight.mean(0))
    pixels = network.pixels(Features(torch.rand(1, 3, 64, 64)))
    with torch.no_grad():
        prompts.contents.normal_()  # equal queries attend to each other alike, wherever they are
        before = prompts(network, pixels).states
        for layer in range(n_layers):
            prompts.positions[layer] += torch.randn(3, 64)
            after = prompts(network, pixels).states
            moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert moved.index(True) == layer + 1
            before = after


def test_own_queries_give_what_transformers_gives() -> None:
    torch.manual_seed(0)
    network = load_mask_network("tiny").eval()
    part = network.model.transformer_module
    features = Features(torch.rand(2, 3, 32, 64))
    positions = part.queries_embedder.weight.expand(len(part.decoder.layers), -1, -1)
    with torch.no_grad():
        expected = network(features)
        found = network.decode(network.pixels(features), part.queries_features.weight, positions)
    for a, b in zip((*found.states, *found.masks), (*expected.states, *expected.masks), strict=True):
        torch.testing.assert_close(a, b)
