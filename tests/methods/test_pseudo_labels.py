"""The entropy filter in both readings, against the authors' numbers, exact medians and hand-solved pixels.

Golden numbers: arthurdouillard/CVPR2021_PLOP at 4b4a0605b2afb84f988d246dee9a00e0c7517363, `train.py`: `entropy`,
`Trainer.find_median` and the block `self.pseudo_labeling == "entropy"` of `Trainer.train`, run on `example`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kc.methods.finetune.losses import IGNORED
from kc.methods.finetune.plop import EntropyFilter, paint, valid_fraction, weighted_cross_entropy

Wave = Callable[..., Tensor]


def example(wave: Wave) -> tuple[Tensor, Tensor]:
    """Old logits (3, 3, 16, 16) and columns of 3 old and 2 new classes with void; all old pixels are background."""
    target = (torch.arange(3 * 256) * 11 % 7).reshape(3, 16, 16)
    target[(target < 3) | (target >= 5)] = 0
    target[0, :2] = IGNORED
    return wave(3, 3, 16, 16, phase=0.2, scale=4.0), target


def test_thresholds_and_labels_are_those_of_the_authors(wave: Wave) -> None:
    old, target = example(wave)
    unlabelled = (target >= 0) & (target < 3)
    chooser = EntropyFilter(3, 5, "official")
    chooser.observe(old[:2], unlabelled[:2])
    chooser.observe(old[2:], unlabelled[2:])
    thresholds = chooser.thresholds()
    assert thresholds.tolist() == pytest.approx([0.134117648, 0.132368416, 0.139210522], abs=1e-8)
    entropy = chooser.uncertainty(old)[0, 3, :4] * math.log(5)
    expected = [0.28470533535165776, 0.20762338139589265, 0.0076256586954428435, 0.13406635267687889]
    assert entropy.tolist() == pytest.approx(expected, rel=1e-9)
    accepted = chooser.accepts(old, thresholds)
    labels = paint(target, old, unlabelled, accepted)
    counts = [int((labels == c).sum()) for c in (0, 1, 2, 3, 4, IGNORED)]
    assert counts == [137, 117, 159, 105, 105, 145]
    weight = valid_fraction(unlabelled, accepted)
    assert weight.tolist() == pytest.approx([0.75625, 0.8142076, 0.7814207], abs=1e-6)
    loss = weighted_cross_entropy(wave(3, 5, 16, 16, phase=0.4), labels, weight)
    assert loss.item() == pytest.approx(1.346555792665193, rel=1e-6)


def test_medians_of_the_paper_are_medians(wave: Wave) -> None:
    old, target = example(wave)
    unlabelled = (target >= 0) & (target < 3)
    chooser = EntropyFilter(3, 5)
    chooser.observe(old, unlabelled)
    entropy = torch.distributions.Categorical(logits=old.movedim(1, -1)).entropy() / math.log(3)
    exact = [entropy[unlabelled & (old.argmax(1) == c)].median().item() for c in range(3)]
    # A bin is 1/4096 of the fourth root: 1/1000 of the entropy.
    assert (chooser.thresholds() ** 4).tolist() == pytest.approx(exact, rel=5e-3)
    accepted = chooser.accepts(old, chooser.thresholds())
    for c in range(3):
        of_class = unlabelled & (old.argmax(1) == c)
        share = (accepted & of_class).sum() / of_class.sum()
        assert share.item() == pytest.approx(0.5, abs=0.02)


def test_a_class_is_judged_by_its_own_median() -> None:
    """Class 0 is always surer than class 1; one median for both would accept all of 0 and nothing of 1."""
    p = torch.tensor([[0.99, 0.01], [0.97, 0.03], [0.4, 0.6], [0.45, 0.55]])
    old = p.log().T[None, :, None]
    chooser = EntropyFilter(2, 3)
    everywhere = torch.ones(1, 1, 4, dtype=torch.bool)
    chooser.observe(old, everywhere)
    assert chooser.accepts(old, chooser.thresholds()).flatten().tolist() == [True, False, True, False]


def test_the_official_filter_never_rejects_on_ade() -> None:
    """100 old classes and background, 10 new ones: the least sure posterior there is passes; the paper rejects it."""
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(1, 101, 20, 20, generator=generator)
    old[..., :10, :] *= 20
    everywhere = torch.ones(1, 20, 20, dtype=torch.bool)
    shares = {}
    for reading in ("official", "paper"):
        chooser = EntropyFilter(101, 111, reading)
        chooser.observe(old, everywhere)
        shares[reading] = chooser.accepts(old, chooser.thresholds()).float().mean().item()
    assert shares["official"] == 1.0
    assert 0.2 < shares["paper"] < 0.55


def test_a_class_that_was_never_predicted() -> None:
    old = torch.tensor([5.0, 0.0]).reshape(1, 2, 1, 1)
    seen = torch.ones(1, 1, 1, dtype=torch.bool)
    sure_of_the_other = torch.tensor([0.0, 20.0]).reshape(1, 2, 1, 1)
    paper, official = EntropyFilter(2, 3, "paper"), EntropyFilter(2, 3, "official")
    for chooser in (paper, official):
        chooser.observe(old, seen)
    assert math.isnan(paper.thresholds()[1])
    assert not paper.accepts(sure_of_the_other, paper.thresholds()).any()
    assert official.thresholds()[1].item() == 0.001
    assert official.accepts(sure_of_the_other, official.thresholds()).all()


def test_only_unlabelled_pixels_are_counted(wave: Wave) -> None:
    old, target = example(wave)
    chooser = EntropyFilter(3, 5)
    chooser.observe(old, target < 3)
    assert int(chooser.counts.sum()) == int((target < 3).sum())


def test_painting_by_hand() -> None:
    old = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]])[None, :, None]
    target = torch.tensor([[[0, 0, 2, IGNORED]]])
    unlabelled = target == 0
    accepted = torch.tensor([[[False, True, True, True]]])
    assert paint(target, old, unlabelled, accepted).tolist() == [[[IGNORED, 1, 2, IGNORED]]]
    assert valid_fraction(unlabelled, accepted).tolist() == [0.5]
    assert valid_fraction(torch.zeros_like(unlabelled), accepted).tolist() == [0.0]


def test_the_weight_is_of_an_image() -> None:
    logits = torch.zeros(2, 2, 1, 2)
    target = torch.tensor([[[0, IGNORED]], [[1, 1]]])
    loss = weighted_cross_entropy(logits, target, torch.tensor([0.5, 1.0]))
    assert loss.item() == pytest.approx((0.5 * math.log(2) + 2 * math.log(2)) / 4, rel=1e-6)
    assert loss != F.cross_entropy(logits, target, ignore_index=IGNORED)


def test_gradient_of_the_weighted_cross_entropy(wave: Wave) -> None:
    logits = wave(2, 3, 2, 2).requires_grad_(True)
    target = torch.tensor([[[0, 1], [2, IGNORED]], [[1, IGNORED], [IGNORED, 0]]])
    weight = torch.tensor([0.3, 0.8], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: weighted_cross_entropy(z, target, weight), logits)
