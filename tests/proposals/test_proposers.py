"""Proposers give complete partitions, the same every time; the oracle gives the truth; names are checked."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from kc.errors import UnknownNameError
from kc.proposals.base import Proposer, areas, as_masks, from_partition, pixels_of
from kc.proposals.edges import Edges
from kc.proposals.load import load_proposer
from kc.proposals.oracle import partition_from, propose_from
from kc.proposals.superpixels import Felzenszwalb, Superpixels
from kc.registry import PROPOSERS, proposer_spec
from kc.types import HIDDEN, VOID, Segments


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """A red square and a green disc on a blue gradient, 48 x 64."""
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([np.zeros_like(x), np.zeros_like(x), 100 + x], axis=-1).astype(np.uint8)
    pixels[8:24, 8:24] = (220, 20, 20)
    pixels[(y - 30) ** 2 + (x - 45) ** 2 < 120] = (20, 200, 30)
    return pixels


@pytest.mark.parametrize("name", sorted(n for n in PROPOSERS if not proposer_spec(n).argument))
def test_a_proposer_gives_a_complete_repeatable_partition(name: str, image: np.ndarray) -> None:
    proposer = load_proposer(name)
    assert proposer.name == name
    assert proposer.key.startswith(name)
    first, second = proposer.propose(image), proposer.propose(image.copy())
    assert first.partition is not None
    assert first.size == (48, 64)
    assert first.partition.dtype == np.int32
    assert np.unique(first.partition).tolist() == list(range(len(first)))
    assert first.scores.tolist() == [1.0] * len(first)
    np.testing.assert_array_equal(first.partition, second.partition)


@pytest.mark.parametrize("proposer", [Superpixels(n_segments=60), Felzenszwalb(scale=20, min_size=10), Edges(0.05)])
def test_regions_respect_strong_edges(proposer: Proposer, image: np.ndarray) -> None:
    truth = np.zeros((48, 64), dtype=int)
    truth[image[..., 0] == 220] = 1
    truth[image[..., 1] == 200] = 2
    partition = proposer.propose(image).partition
    assert partition is not None
    best = sum(np.bincount(truth[partition == i]).max() for i in range(partition.max() + 1))
    assert best / truth.size > 0.98


def test_settings_change_the_regions_and_the_key(image: np.ndarray) -> None:
    few, many = load_proposer("superpixels", n_segments=6), load_proposer("superpixels", n_segments=60)
    assert few.key != many.key
    assert len(few.propose(image)) < len(many.propose(image))
    assert Superpixels(compactness=5.0).key != Superpixels().key
    keys = {Felzenszwalb().key, Felzenszwalb(scale=7).key, Felzenszwalb(sigma=1).key, Felzenszwalb(min_size=7).key}
    assert len(keys) == 4
    assert all("/" not in key for key in keys)


def test_a_wrong_name_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'superpixels'"):
        load_proposer("superpixel")
    with pytest.raises(TypeError, match="n_pixels"):
        load_proposer("superpixels", n_pixels=3)


def test_names_are_known_without_loading_anything_heavy() -> None:
    code = "import sys, kc.proposals.load; print([m for m in ('torch', 'skimage', 'scipy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_helpers_agree_between_partition_and_masks() -> None:
    partition = from_partition(np.array([[7, 7, 2], [2, 2, 9]]))
    assert partition.partition is not None
    assert partition.partition.tolist() == [[1, 1, 0], [0, 0, 2]]
    masks = Segments(partition.size, partition.scores, masks=as_masks(partition))
    assert areas(partition).tolist() == areas(masks).tolist() == [3, 2, 1]
    np.testing.assert_array_equal(as_masks(masks), as_masks(partition))
    a, b = pixels_of(partition), pixels_of(masks)
    assert sorted(zip(*a, strict=True)) == sorted(zip(*b, strict=True))


def test_oracle_gives_the_labelled_segments() -> None:
    category = np.array([[3, 3, 1, VOID], [3, 1, 3, VOID]])
    semantic, ids = propose_from(category)
    assert ids.tolist() == [1, 3]
    assert as_masks(semantic).astype(int).tolist() == [[[0, 0, 1, 0], [0, 1, 0, 0]], [[1, 1, 0, 0], [1, 0, 1, 0]]]
    panoptic = np.stack([category, np.array([[1, 1, 0, 0], [1, 0, 2, 0]])], axis=-1)
    segments, ids = propose_from(panoptic)
    assert ids.tolist() == [1, 3, 3]
    assert areas(segments).tolist() == [2, 3, 1]
    assert len(segments) == 3
    assert len(propose_from(np.full((4, 5), VOID))[0]) == 0


def test_oracle_partition_covers_void_too() -> None:
    category = np.array([[3, 3, 1, VOID], [3, 1, 3, VOID]])
    assert areas(partition_from(category)).tolist() == [2, 4, 2]
    panoptic = np.stack([category, np.array([[1, 1, 0, 0], [1, 0, 2, 0]])], axis=-1)
    assert areas(partition_from(panoptic)).tolist() == [2, 3, 1, 2]


def test_a_true_segment_keeps_its_number_when_other_classes_become_visible() -> None:
    whole = np.array([[3, 3, 1, VOID], [3, 1, 5, VOID]])
    things = np.stack([whole, np.array([[1, 2, 0, 0], [1, 0, 7, 0]])], axis=-1)
    for target in (whole, things):
        everything = partition_from(target)
        known = {n: m.tolist() for n, m in zip(everything.number.tolist(), as_masks(everything), strict=True)}
        for shown in ([1], [3], [5], [3, 5]):
            hidden = np.where(np.isin(target if target.ndim == 2 else target[..., :1], shown), target, HIDDEN)
            part = partition_from(hidden)
            for number, mask in zip(part.number.tolist(), as_masks(part), strict=True):
                if number in known and whole[mask].min() >= 0 and np.isin(whole[mask], shown).all():
                    assert mask.tolist() == known[number]
            assert {n for n in part.number.tolist() if n >> 32 in shown} == {n for n in known if n >> 32 in shown}
