"""Pooling and majority labels against loops over pixels, and where regions are smaller than a cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kc.proposals.base import as_masks, from_partition
from kc.proposals.pooling import coverage, pool, segment_labels
from kc.types import VOID, Segments


def naive_keys(dense: np.ndarray, masks: np.ndarray) -> np.ndarray:
    _, h, w = dense.shape
    height, width = masks.shape[1:]
    keys = []
    for mask in masks:
        cells = [dense[:, y * h // height, x * w // width] for y, x in zip(*np.nonzero(mask), strict=True)]
        mean = np.mean(cells, axis=0) if cells else np.zeros(len(dense))
        norm = np.linalg.norm(mean)
        keys.append(mean / norm if norm else mean)
    return np.array(keys)


@pytest.fixture
def partition() -> Segments:
    rng = np.random.default_rng(0)
    return from_partition(rng.integers(0, 9, (23, 31)))


@pytest.mark.parametrize("grid", [(3, 4), (6, 8), (23, 31), (40, 50)])
def test_partition_and_masks_agree_with_a_pixel_loop(partition: Segments, grid: tuple[int, int]) -> None:
    dense = torch.randn(5, *grid, generator=torch.Generator().manual_seed(0))
    expected = naive_keys(dense.numpy(), as_masks(partition))
    keys = pool(dense, partition)
    assert keys.dtype == np.float32
    np.testing.assert_allclose(keys, expected, atol=1e-5)
    masks = Segments(partition.size, partition.scores, masks=as_masks(partition))
    np.testing.assert_allclose(pool(dense, masks), expected, atol=1e-5)


def test_overlapping_masks_pool_each_for_itself() -> None:
    masks = np.zeros((3, 4, 4), dtype=bool)
    masks[0, :, :2] = True
    masks[1] = True
    segments = Segments((4, 4), np.ones(3, np.float32), masks=masks)
    dense = torch.zeros(2, 2, 2)
    dense[0, :, 0] = 1
    dense[1, :, 1] = 1
    # The third mask is empty: it has no direction, and stays zero.
    np.testing.assert_allclose(pool(dense, segments), [[1, 0], [0.5**0.5, 0.5**0.5], [0, 0]], atol=1e-6)


def test_a_region_smaller_than_a_cell_takes_the_key_of_its_cell() -> None:
    target = np.zeros((8, 8), dtype=np.int64)
    target[5, 6] = 1
    dense = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(1))
    key = pool(dense, from_partition(target))[1]
    expected = torch.nn.functional.normalize(dense[:, 1, 1], dim=0).numpy()
    np.testing.assert_allclose(key, expected, atol=1e-6)


def test_coverage_counts_every_pixel_once(partition: Segments) -> None:
    table = coverage(partition, (4, 5)).toarray()
    assert table.shape == (9, 20)
    assert table.sum() == 23 * 31
    assert partition.partition is not None
    np.testing.assert_array_equal(table.sum(1), np.bincount(partition.partition.ravel()))


def test_a_zero_map_gives_zero_keys(partition: Segments) -> None:
    assert not pool(torch.zeros(4, 3, 3), partition).any()


def test_majority_labels() -> None:
    segments = from_partition(np.array([[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]))
    target = np.array([[7, 7, 5, VOID], [VOID] * 4, [4, 4, 2, 2], [1, 2, 3, VOID]])
    # region 0: 7 on half of it; 1: nothing labelled; 2: a tie at one half; 3: a third each
    assert segment_labels(target, segments).tolist() == [7, VOID, 2, VOID]
    assert segment_labels(target, segments, 0.7).tolist() == [VOID] * 4
    assert segment_labels(target, segments, 0.0).tolist() == [7, VOID, 2, 1]
    masks = Segments(segments.size, segments.scores, masks=as_masks(segments))
    assert segment_labels(target, masks).tolist() == [7, VOID, 2, VOID]
    assert segment_labels(target.astype(np.int16), segments).tolist() == [7, VOID, 2, VOID]


def test_a_hidden_region_is_not_named_after_its_rim() -> None:
    segments = from_partition(np.zeros((1, 4), np.int64))
    assert segment_labels(np.array([[VOID, VOID, VOID, 1]]), segments).tolist() == [VOID]


def test_class_zero_is_a_class_and_ids_above_void_work() -> None:
    segments = from_partition(np.array([[0, 0], [1, 1]]))
    assert segment_labels(np.array([[0, VOID], [300, 300]]), segments).tolist() == [0, 300]


def test_a_label_map_of_another_size_is_refused(partition: Segments) -> None:
    with pytest.raises(ValueError, match=r"\(31, 23\)"):
        segment_labels(np.zeros((31, 23), np.int64), partition)


@pytest.mark.parametrize("grid", [(4, 5), (3, 7), (12, 10), (1, 1), (13, 5), (4, 11)])
def test_masks_cover_cells_as_their_pixels_do(grid: tuple[int, int]) -> None:
    """Cells of equal and of unequal size, and more cells than pixels; also masks higher than a byte can count."""
    rng = np.random.default_rng(0)
    for size in ((12, 10), (600, 10)):
        masks = rng.random((3, *size)) < 0.6
        segments = Segments(size, np.ones(3, np.float32), masks=masks)
        expected = np.zeros((3, *grid))
        for n, y, x in zip(*np.nonzero(masks), strict=True):
            expected[n, y * grid[0] // size[0], x * grid[1] // size[1]] += 1
        found = coverage(segments, grid)
        dense = found if isinstance(found, np.ndarray) else found.toarray()
        assert (dense.reshape(3, *grid) == expected).all()
