"""PAMR against the public code and on a case solved by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kc.openvocab.dense_clip.segmenter import pamr


def test_golden_numbers(
    golden: Callable[[str], Tensor], make_images: Callable[..., Tensor], make_features: Callable[..., Tensor]
) -> None:
    found = pamr(make_images(1, 6, 7)[0], make_features(1, 2, 6, 7)[0], 3, (1, 2))
    torch.testing.assert_close(found, golden("pamr")[0], atol=1e-5, rtol=1e-5)


def test_scores_stop_at_edges() -> None:
    """Two flat halves with a hard edge: a pixel beside it takes the mean of its own side only."""
    image = torch.zeros(3, 6, 6)
    image[:, :, 3:] = 1.0
    maps = torch.zeros(1, 6, 6)
    maps[0, :, 3:] = 1.0
    maps[0, 2, 1] = 0.8  # a mistake on the left half
    found = pamr(image, maps, 1, (1,))
    # Seven of its neighbours are 0 on its own side; itself is not counted.
    assert found[0, 2, 1] == pytest.approx(0.0, abs=1e-6)
    assert found[0, 1, 1] == pytest.approx(0.1, abs=1e-6)
    assert found[0, 4, 2] == pytest.approx(0.0, abs=1e-3)
    assert found[0, 4, 3] == pytest.approx(1.0, abs=1e-3)


def test_no_step_changes_nothing_and_sizes_must_agree() -> None:
    maps = torch.rand(2, 4, 4)
    assert torch.equal(pamr(torch.rand(3, 4, 4), maps, 0, (1,)), maps)
    with pytest.raises(ValueError, match="for maps of"):
        pamr(torch.rand(3, 5, 4), maps, 1, (1,))
