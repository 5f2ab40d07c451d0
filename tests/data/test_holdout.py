"""Validation images out of the training split: every class gives its share and keeps images."""

from __future__ import annotations

import numpy as np
import pytest

from kc.data.selection import held_out


def one_class(counts: list[int]) -> np.ndarray:
    return np.eye(len(counts), dtype=bool)[np.repeat(np.arange(len(counts)), counts)]


def test_each_class_gives_its_share() -> None:
    table = one_class([10, 20, 3, 2, 1, 0])
    rows = held_out(table, 0.2, seed=0)
    # 2 of 10, 4 of 20, round(0.6) of 3, at least one of 2, none of 1.
    assert table[rows].sum(0).tolist() == [2, 4, 1, 1, 0, 0]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows.dtype == np.int64


def test_the_seed_says_which() -> None:
    table = one_class([50, 50])
    first, again, other = (held_out(table, 0.2, seed=s) for s in (3, 3, 4))
    assert first.tolist() == again.tolist() != other.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_the_rarest_class_chooses_first_and_its_images_count_for_the_others(seed: int) -> None:
    table = np.zeros((20, 2), dtype=bool)
    table[:, 0] = True  # in every image
    table[:5, 1] = True
    both, rare = table[held_out(table, 0.2, seed)].sum(0)
    assert both == 4  # more, if the frequent class chose first and missed the five
    assert rare >= 1


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_every_class_keeps_an_image_to_learn_from(share: float) -> None:
    rng = np.random.default_rng(0)
    table = rng.random((60, 8)) < rng.uniform(0.02, 0.6, 8)
    table[0] = True
    rows = held_out(table, share, seed=1)
    kept = np.delete(table, rows, axis=0)
    held = table.sum(0) > 0
    assert (kept.sum(0)[held] >= 1).all()


def test_an_image_that_a_class_needs_stays() -> None:
    table = np.array([[1, 1], [0, 1], [0, 1], [0, 1]], dtype=bool)  # class 0 has one image, and it shows class 1 too
    for seed in range(20):
        assert 0 not in held_out(table, 0.5, seed)
