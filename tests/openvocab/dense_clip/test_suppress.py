"""Channel suppression: norms before and after, on a case solved by hand."""

import math

import pytest
import torch

from kc.openvocab.dense_clip.tower import channel_norms, outlier, suppressed


def test_by_hand() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 1.0], [30.0, 40.0], [0.0, 3.0]])
    found = outlier(weight)
    assert (found.channel, found.norm, found.others) == (2, 50.0, 3.0)
    assert found.z == pytest.approx(47 / math.sqrt(8 / 3))
    after = suppressed(weight)
    torch.testing.assert_close(after[2], torch.tensor([1.8, 2.4]))
    assert torch.equal(after[[0, 1, 3]], weight[[0, 1, 3]])
    assert weight[2, 0] == 30.0  # the tower's own weight stays


def test_norm_after_is_the_mean_of_the_others() -> None:
    weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    weight[7] *= 9
    norms = channel_norms(suppressed(weight))
    assert norms[7] == pytest.approx(float(torch.cat([norms[:7], norms[8:]]).mean()), rel=1e-5)
    assert outlier(weight).channel == 7
    assert outlier(weight).z > 50 > outlier(suppressed(weight)).z
    assert suppressed(weight.half()).dtype == torch.float16


def test_equal_channels() -> None:
    """Others that do not vary: any lead is infinitely many deviations."""
    weight = torch.ones(4, 2)
    weight[1] = 5
    assert outlier(weight).z == math.inf
    torch.testing.assert_close(suppressed(weight), torch.ones(4, 2))
