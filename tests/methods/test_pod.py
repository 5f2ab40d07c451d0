"""Local POD: the authors' numbers, a naive twin, hand-solved maps, and each scale told apart.

Golden numbers: arthurdouillard/CVPR2021_PLOP at 4b4a0605b2afb84f988d246dee9a00e0c7517363, `train.py`, `_local_pod` and
`features_distillation`, float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kc.methods.finetune.plop import fold_new, local_pod, pod_loss, strips

Wave = Callable[..., Tensor]


@pytest.mark.parametrize(
    ("scales", "value"),
    [
        ((1,), 0.931080418465389),
        ((2,), 1.778523250524582),
        ((4,), 3.929583019959965),
        ((1, 2, 4), 4.420901418432489),
    ],
)
def test_distance_is_that_of_the_authors(wave: Wave, scales: tuple[int, ...], value: float) -> None:
    found = local_pod(wave(2, 3, 8, 8), wave(2, 3, 8, 8, phase=0.3), scales)
    assert found.item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("squared", "value"), [(True, 0.120797239302173), (False, 0.056273424588030)])
def test_whole_loss_is_that_of_the_authors(wave: Wave, squared: bool, value: float) -> None:
    new = [wave(2, 3, 8, 8, phase=0.3), wave(2, 4, 8, 8, phase=0.9)]
    old = [wave(2, 3, 8, 8), wave(2, 4, 8, 8, phase=0.6)]
    logits, old_logits = wave(2, 5, 8, 8, phase=1.5), wave(2, 3, 8, 8, phase=1.2)
    found = pod_loss(new, old, logits, old_logits, feature_weight=0.01, logit_weight=0.0005, squared=squared)
    assert found.item() == pytest.approx(value, rel=1e-12)


def naive(new: Tensor, old: Tensor, scales: tuple[int, ...]) -> float:
    """Straight from section 3.2, for sides that the scales divide."""
    distances = []
    for a, b in zip(new, old, strict=True):
        total = 0.0
        for s in scales:
            h, w = a.shape[1] // s, a.shape[2] // s
            for i in range(s):
                for j in range(s):
                    for c in range(len(a)):
                        d = (a - b)[c, i * h : (i + 1) * h, j * w : (j + 1) * w]
                        total += sum(float(row.mean()) ** 2 for row in d)
                        total += sum(float(column.mean()) ** 2 for column in d.T)
        distances.append(math.sqrt(total))
    return sum(distances) / len(distances)


def test_naive_twin_agrees_on_a_map_that_is_no_square(wave: Wave) -> None:
    new, old = wave(2, 3, 4, 8), wave(2, 3, 4, 8, phase=0.5)
    assert local_pod(new, old).item() == pytest.approx(naive(new, old, (1, 2, 4)), rel=1e-12)


def test_by_hand() -> None:
    """A map [[1, 2], [3, 6]]: rows 1.5 and 4.5, columns 2 and 4; its four cells say each value twice."""
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])[None, None]
    assert strips(x, (1,)).tolist() == [[1.5, 4.5, 2.0, 4.0]]
    assert strips(x, (2,)).tolist() == [[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 6.0, 6.0]]
    assert local_pod(x, torch.zeros_like(x), (1,)).item() == pytest.approx(math.sqrt(1.5**2 + 4.5**2 + 2**2 + 4**2))
    # More cells than pixels: none is empty.
    assert strips(x, (4,)).tolist() == strips(x, (2,)).tolist()


def test_each_scale_sees_what_the_coarser_ones_cannot() -> None:
    """Sign patterns whose strips cancel over the whole map, then over its quarters."""
    alternating = torch.tensor([1.0, -1.0]).repeat(2)
    blocks = torch.tensor([1.0, 1.0, -1.0, -1.0])
    fine = torch.outer(alternating, alternating)[None, None]
    coarse = torch.outer(blocks, blocks)[None, None]
    none = torch.zeros(1, 1, 4, 4)
    assert local_pod(coarse, none, (1,)).item() == 0
    assert local_pod(coarse, none, (1, 2)).item() > 0
    assert local_pod(fine, none, (1, 2)).item() == 0
    assert local_pod(fine, none, (1, 2, 4)).item() > 0


def test_sides_that_no_scale_divides_are_covered_whole() -> None:
    old = torch.zeros(1, 1, 5, 7)
    new = old.clone()
    new[..., -1, -1] = 1.0
    for scale in (1, 2, 4):
        assert local_pod(new, old, (scale,)).item() > 0


def test_new_logits_count_as_background() -> None:
    logits = torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1, 1)
    assert fold_new(logits, 2).flatten().tolist() == [13.0, 2.0]


def test_factor_grows_with_what_is_known(wave: Wave) -> None:
    """The same difference in logits weighs sqrt(C_all / C_new): 4 classes with 1 new against 4 with 3 new."""
    zeros = torch.zeros(1, 4, 2, 2, dtype=torch.float64)
    one = pod_loss([], [], zeros, torch.ones(1, 3, 2, 2).double(), feature_weight=0, logit_weight=1)
    three = pod_loss([], [], zeros, torch.ones(1, 1, 2, 2).double(), feature_weight=0, logit_weight=1)
    distance = local_pod(zeros[:, :1], torch.ones(1, 1, 2, 2).double())
    assert three.item() == pytest.approx(distance.item() * math.sqrt(4 / 3))
    assert one.item() == pytest.approx(distance.item() * math.sqrt(3) * math.sqrt(4))


def test_gradient_and_nothing_to_learn_where_nothing_moved(wave: Wave) -> None:
    new, old = wave(1, 2, 4, 4).requires_grad_(True), wave(1, 2, 4, 4, phase=0.5)
    assert torch.autograd.gradcheck(lambda x: local_pod(x, old), new)
    assert torch.autograd.gradcheck(lambda x: local_pod(x, old, squared=True), new)
    (grad,) = torch.autograd.grad(local_pod(new, new.detach()), new)
    assert not grad.any()


def test_gradient_of_the_whole_reaches_features_and_logits(wave: Wave) -> None:
    features, logits = wave(1, 2, 4, 4).requires_grad_(True), wave(1, 5, 3, 3, scale=2.0).requires_grad_(True)
    old, before = wave(1, 2, 4, 4, phase=0.5), wave(1, 3, 3, 3, phase=0.7)
    for squared in (False, True):

        def loss(x: Tensor, z: Tensor, squared: bool = squared) -> Tensor:
            return pod_loss([x], [old], z, before, feature_weight=0.1, logit_weight=0.5, squared=squared)

        assert torch.autograd.gradcheck(loss, (features, logits))
