"""MiB's losses: the authors' numbers, hand-solved pixels, naive loops, and what plain cross entropy would say.

Golden numbers: fcdl94/MiB at 1c589833ce5c1a7446469d4602ceab2cdeac1b0e, `utils/loss.py` and
`IncrementalSegmentationModule.init_new_classifier`, float64, on the tensors of `example`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kc.methods.finetune.losses import IGNORED, cross_entropy, pixel_distillation
from kc.methods.finetune.mib import spread_background, unbiased_cross_entropy, unbiased_distillation

Wave = Callable[..., Tensor]


def example(wave: Wave) -> tuple[Tensor, Tensor, Tensor]:
    """New logits (2, 5, 4, 6), old logits (2, 3, 4, 6), columns (2, 4, 6) with three void pixels."""
    target = (torch.arange(48) * 7 % 5).reshape(2, 4, 6)
    target[0, 0, :3] = IGNORED
    return wave(2, 5, 4, 6), wave(2, 3, 4, 6, phase=1.0), target


def test_cross_entropy_is_that_of_the_authors(wave: Wave) -> None:
    logits, _, target = example(wave)
    assert unbiased_cross_entropy(logits, target, 3).item() == pytest.approx(1.361295521695536, rel=1e-12)


def test_distillation_is_that_of_the_authors(wave: Wave) -> None:
    logits, old, _ = example(wave)
    assert unbiased_distillation(logits, old).item() == pytest.approx(0.502460622838074, rel=1e-12)


def test_new_classifier_is_that_of_the_authors(wave: Wave) -> None:
    background, new = nn.Conv2d(4, 1, 1).double(), nn.Conv2d(4, 2, 1).double()
    with torch.no_grad():
        background.weight.copy_(wave(3, 4, 1, 1)[:1])
        background.bias.fill_(0.958851077208406)
    weight = background.weight.clone()
    spread_background(background, new)
    # The authors' logarithm is float32.
    assert background.bias.item() == pytest.approx(-0.13976120948791504, rel=1e-6)
    assert new.bias.tolist() == pytest.approx([-0.13976120948791504] * 2, rel=1e-6)
    assert torch.equal(background.weight, weight)
    assert torch.equal(new.weight, weight.expand(2, 4, 1, 1))


def test_cross_entropy_by_hand() -> None:
    """Softmax (1/2, 1/4, 1/4) over background, one old class, one new class: "background" has 3/4."""
    logits = torch.log(torch.tensor([0.5, 0.25, 0.25])).reshape(1, 3, 1, 1)
    for label, probability in ((0, 0.75), (1, 0.75), (2, 0.25)):
        loss = unbiased_cross_entropy(logits, torch.tensor([[[label]]]), 2)
        assert loss.item() == pytest.approx(-math.log(probability), rel=1e-6)


def test_distillation_by_hand() -> None:
    """p = (1/2, 1/4, 1/4), q = (3/4, 1/4): background and new have 3/4, so the loss is the entropy of q over 2."""
    logits = torch.log(torch.tensor([0.5, 0.25, 0.25])).reshape(1, 3, 1, 1)
    old = torch.log(torch.tensor([0.75, 0.25])).reshape(1, 2, 1, 1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert unbiased_distillation(logits, old).item() == pytest.approx(entropy / 2, rel=1e-6)


def test_naive_loops_agree(wave: Wave) -> None:
    logits, old, target = example(wave)
    n_old = 3
    ce, kd, n_valid = 0.0, 0.0, 0
    for n in range(2):
        for i in range(4):
            for j in range(6):
                e = [math.exp(v) for v in logits[n, :, i, j].tolist()]
                p = [v / sum(e) for v in e]
                f = [math.exp(v) for v in old[n, :, i, j].tolist()]
                q = [v / sum(f) for v in f]
                label = int(target[n, i, j])
                if label != IGNORED:
                    ce -= math.log(sum(p[:n_old]) if label < n_old else p[label])
                    n_valid += 1
                kd -= (q[0] * math.log(p[0] + sum(p[n_old:])) + sum(q[c] * math.log(p[c]) for c in (1, 2))) / n_old
    assert unbiased_cross_entropy(logits, target, n_old).item() == pytest.approx(ce / n_valid, rel=1e-12)
    assert unbiased_distillation(logits, old).item() == pytest.approx(kd / 48, rel=1e-12)


def test_plain_losses_punish_what_unbiased_ones_allow() -> None:
    """The old class on a pixel called background, and the new class on a pixel that the old model calls background."""
    old_class = torch.tensor([0.0, 9.0, 0.0]).reshape(1, 3, 1, 1)
    background = torch.tensor([[[0]]])
    assert cross_entropy(old_class, background).item() > 8
    assert unbiased_cross_entropy(old_class, background, 2).item() < 1e-3
    new_class = torch.tensor([0.0, 0.0, 9.0]).reshape(1, 3, 1, 1)
    sure = torch.tensor([9.0, 0.0]).reshape(1, 2, 1, 1)
    assert pixel_distillation(new_class, sure).item() > 0.3
    assert unbiased_distillation(new_class, sure).item() < 1e-3


def test_without_old_classes_it_is_plain(wave: Wave) -> None:
    logits, _, target = example(wave)
    torch.testing.assert_close(unbiased_cross_entropy(logits, target, 1), cross_entropy(logits, target))


def test_nothing_labelled_gives_zero_with_a_gradient(wave: Wave) -> None:
    logits = wave(1, 3, 2, 2).requires_grad_(True)
    loss = unbiased_cross_entropy(logits, torch.full((1, 2, 2), IGNORED), 2)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_gradients(wave: Wave) -> None:
    logits, old, target = example(wave)
    logits = logits[:1, :, :2, :2].clone().requires_grad_(True)
    target, old = target[1:, :2, :2], old[:1, :, :2, :2]
    assert torch.autograd.gradcheck(lambda z: unbiased_cross_entropy(z, target, 3), logits)
    assert torch.autograd.gradcheck(lambda z: unbiased_distillation(z, old), logits)


def test_spreading_keeps_the_answer_of_the_old_classes() -> None:
    """After a step begins, background and new together are as likely as background was, exactly."""
    torch.manual_seed(0)
    background, known, new = nn.Conv2d(5, 1, 1), nn.Conv2d(5, 3, 1), nn.Conv2d(5, 2, 1)
    x = torch.randn(2, 5, 3, 3)
    before = torch.cat([background(x), known(x)], 1).softmax(1)
    spread_background(background, new)
    after = torch.cat([background(x), known(x), new(x)], 1).softmax(1)
    torch.testing.assert_close(after[:, 1:4], before[:, 1:])
    torch.testing.assert_close(after[:, 4], before[:, 0] / 3)
