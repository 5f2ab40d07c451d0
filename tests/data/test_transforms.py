"""Resizing keeps labels pure and masks on their image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from kc.data.transforms import flip_image, flip_labels, flips, image_to_tensor, nearest_indices, resize_labels

SIZES = [((7, 5), (4, 4)), ((6, 9), (12, 18)), ((37, 53), (16, 24)), ((8, 8), (8, 8))]


def test_nearest_picks_the_cell_under_each_centre():
    assert nearest_indices(4, 2).tolist() == [1, 3]
    assert nearest_indices(2, 4).tolist() == [0, 0, 1, 1]
    assert nearest_indices(3, 3).tolist() == [0, 1, 2]
    assert nearest_indices(5, 3).tolist() == [0, 2, 4]


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_labels_are_picked_never_mixed(before, after):
    labels = np.random.default_rng(0).choice([0, 7, 254, 255, 100_000_007], size=before)
    resized = resize_labels(labels, after)
    assert resized.shape == after
    assert resized.dtype == labels.dtype
    assert set(np.unique(resized)) <= set(np.unique(labels))


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_the_grid_is_torchs_nearest_exact(before, after):
    labels = np.random.default_rng(1).integers(0, 200, size=before)
    expected = tvf.resize(torch.from_numpy(labels)[None], list(after), interpolation=InterpolationMode.NEAREST_EXACT)
    assert (resize_labels(labels, after) == expected[0].numpy()).all()


def test_both_channels_of_a_panoptic_map_move_together():
    panoptic = np.random.default_rng(2).integers(0, 9, size=(11, 6, 2)).astype(np.int32)
    resized = resize_labels(panoptic, (5, 8))
    assert resized.shape == (5, 8, 2)
    pairs = {tuple(p) for p in panoptic.reshape(-1, 2).tolist()}
    assert {tuple(p) for p in resized.reshape(-1, 2).tolist()} <= pairs
    assert (resized[..., 1] == resize_labels(panoptic[..., 1], (5, 8))).all()


def test_image_range_layout_and_identity():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    tensor = image_to_tensor(image, (2, 4))
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, torch.from_numpy(image).permute(2, 0, 1) / 255)
    assert torch.equal(image_to_tensor(np.full((9, 7, 3), 255, np.uint8), (4, 4)), torch.ones(3, 4, 4))


@pytest.mark.parametrize("after", [(16, 24), (48, 96), (31, 57)])
def test_mask_and_image_stay_aligned(after):
    labels = np.zeros((32, 48), dtype=np.int64)
    labels[8:20, 12:36] = 1
    image = np.repeat((labels[..., None] * 255).astype(np.uint8), 3, axis=2)
    tensor = image_to_tensor(image, after)[0].numpy()
    resized = resize_labels(labels, after)
    sure = (tensor < 0.25) | (tensor > 0.75)  # all but the blended border
    assert sure.mean() > 0.8
    assert ((tensor > 0.5)[sure] == (resized == 1)[sure]).all()
    assert (flip_image(torch.from_numpy(tensor)).numpy()[:, 0] == tensor[:, -1]).all()
    assert (flip_labels(resized)[:, ::-1] == resized).all()


def test_flips_are_a_fair_coin_of_seed_epoch_and_index():
    coins = [flips(0, epoch, index) for epoch in range(20) for index in range(20)]
    assert coins == [flips(0, epoch, index) for epoch in range(20) for index in range(20)]
    assert 160 < sum(coins) < 240
    assert coins != [flips(1, epoch, index) for epoch in range(20) for index in range(20)]
