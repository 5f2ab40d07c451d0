"""The formulas as matrices: hand-solved cases and the authors' Gaussian."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kc.openvocab.dense_clip.model import attend, gaussian, proxy_weights, softmax_similarity


def test_softmax_similarity_by_hand() -> None:
    q = torch.tensor([[1.0, 0.0], [0.0, 2.0]])[None, None]
    k = torch.tensor([[2.0, 0.0], [0.0, 0.0]])[None, None]
    top = math.exp(2 / math.sqrt(2))
    wanted = torch.tensor([[top / (top + 1), 1 / (top + 1)], [0.5, 0.5]])
    torch.testing.assert_close(softmax_similarity(q, k)[0, 0], wanted)
    bias = torch.tensor([[0.0, math.inf], [0.0, math.log(3.0)]]).clamp(max=1e9)
    torch.testing.assert_close(softmax_similarity(q, k, bias)[0, 0, 1], torch.tensor([0.25, 0.75]))


def test_attend_is_the_matrix_times_the_values() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, 4, generator=generator) for _ in range(3))
    bias = torch.randn(7, 7, generator=generator)
    torch.testing.assert_close(attend(q, k, v), softmax_similarity(q, k) @ v)
    torch.testing.assert_close(attend(k, k, v, bias), softmax_similarity(k, k, bias) @ v)


def test_gaussian_is_that_of_the_authors(golden: Callable[[str], Any]) -> None:
    """A grid of 2 x 3 at sigma 1.5: rows and columns are told apart."""
    torch.testing.assert_close(gaussian((2, 3), 1.5), golden("gauss23"), atol=1e-6, rtol=1e-6)
    assert gaussian((2, 3), 1.5)[1, 4] == pytest.approx(math.exp(-1 / 4.5))  # one row below
    assert gaussian((2, 3), 1.5)[1, 3] == pytest.approx(math.exp(-4 / 4.5))  # two columns to the right


def test_proxy_by_hand() -> None:
    """Patches a, a, b with a and b orthogonal: s has five ones of nine, mean 5/9."""
    features = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]]).view(1, 2, 1, 3)
    found = proxy_weights(features, beta=1.2, gamma=3.0)[0, 0]
    # 1 - 1.2 * 5/9 = 1/3 is kept, 0 - 2/3 is cut.
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))
    # Nothing is cut at beta 0: exp(3) against exp(0).
    top = math.exp(3.0)
    wanted = torch.tensor([top, top, 1.0]) / (2 * top + 1)
    torch.testing.assert_close(proxy_weights(features, beta=0.0, gamma=3.0)[0, 0, 0], wanted)


def test_proxy_mean_is_that_of_each_image(make_features: Callable[..., Any]) -> None:
    features = make_features(2, 4, 3, 3)
    features[1] = features[1].abs()
    together = proxy_weights(features, 1.2, 3.0)
    for i in range(2):
        torch.testing.assert_close(together[i], proxy_weights(features[i : i + 1], 1.2, 3.0)[0])
    assert ((together[0] == 0).sum() - (together[1] == 0).sum()).abs() > 5


def test_proxy_of_features_that_are_all_alike_is_the_identity() -> None:
    """s = 1 everywhere, so s - 1.2 is negative everywhere and the published formula is 0/0."""
    assert torch.equal(proxy_weights(torch.ones(1, 3, 2, 2), 1.2, 3.0)[0, 0], torch.eye(4))
