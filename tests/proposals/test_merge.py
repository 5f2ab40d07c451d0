"""Labels painted back into maps, and class maps split into instances."""

from __future__ import annotations

import numpy as np
import pytest

from kc.proposals.base import from_partition
from kc.proposals.merge import masks_to_panoptic, paint, semantic_to_panoptic
from kc.types import VOID, Segments


def test_paint_a_partition() -> None:
    segments = from_partition(np.array([[0, 1], [1, 2]]))
    painted = paint(segments, np.array([8, VOID, 0]))
    assert painted.tolist() == [[8, VOID], [VOID, 0]]
    assert painted.dtype == np.int64


def test_paint_masks_the_best_on_top_and_void_where_none() -> None:
    masks = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 0]]], dtype=bool)
    for scores, expected in [((0.9, 0.1), [4, 4, 6, VOID]), ((0.1, 0.9), [4, 6, 6, VOID])]:
        segments = Segments((1, 4), np.array(scores, np.float32), masks=masks)
        assert paint(segments, np.array([4, 6])).tolist() == [expected]


@pytest.mark.parametrize("n", [0, 40, 300])
def test_masks_are_painted_in_rising_order_of_score_the_later_of_equals_on_top(n: int) -> None:
    rng = np.random.default_rng(n)
    masks = rng.random((n, 9, 11)) < 3 / max(n, 1)
    scores, labels = rng.integers(0, n // 2 + 1, n).astype(np.float32), rng.integers(0, 700, n)
    expected = np.full((9, 11), VOID)
    for i in sorted(range(n), key=lambda i: scores[i]):
        expected[masks[i]] = labels[i]
    painted = paint(Segments((9, 11), scores, masks=masks), labels)
    assert painted.dtype == np.int64
    np.testing.assert_array_equal(painted, expected)


def test_a_label_for_every_region() -> None:
    segments = from_partition(np.array([[0, 1], [1, 2]]))
    with pytest.raises(ValueError, match="2 labels for 3 regions"):
        paint(segments, np.array([1, 2]))


def test_components_of_things_become_instances() -> None:
    semantic = np.array(
        [
            [1, 0, 0, 1, 1],
            [0, 1, 0, 2, 1],
            [0, 0, 0, 2, VOID],
            [5, 5, 1, VOID, VOID],
        ]
    )
    result = semantic_to_panoptic(semantic, [1, 2])
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result[..., 0], semantic)
    instance = result[..., 1]
    # Diagonal neighbours of one class touch; neighbours of two classes do not merge.
    assert instance[0, 0] == instance[1, 1] != 0
    assert instance[0, 3] == instance[0, 4] == instance[1, 4]
    assert instance[1, 3] == instance[2, 3]
    assert sorted(set(instance[np.isin(semantic, [1, 2])].tolist())) == [1, 2, 3, 4]
    assert not instance[~np.isin(semantic, [1, 2])].any()


def test_class_zero_may_be_a_thing() -> None:
    result = semantic_to_panoptic(np.array([[0, 3, 0]]), (0,))
    assert result[..., 1].tolist() == [[1, 0, 2]]


def test_no_things() -> None:
    semantic = np.array([[0, 3, VOID]])
    result = semantic_to_panoptic(semantic, ())
    assert not result[..., 1].any()
    assert result[..., 0].tolist() == semantic.tolist()


def test_every_mask_of_a_thing_is_an_instance_and_stuff_is_one() -> None:
    """Two touching cats (4) are two, where connected areas would be one; two skies (6) are one segment."""
    masks = np.array(
        [[[1, 1, 0, 0, 0, 0]], [[0, 1, 1, 0, 0, 0]], [[0, 0, 0, 1, 0, 0]], [[0, 0, 0, 0, 1, 0]]], dtype=bool
    )
    segments = Segments((1, 6), np.array([0.9, 0.8, 0.7, 0.6], np.float32), masks=masks)
    found = masks_to_panoptic(segments, np.array([4, 4, 6, 6]), thing_ids=[4])
    assert found[0].tolist() == [[4, 1], [4, 1], [4, 2], [6, 0], [6, 0], [VOID, 0]]
    assert found.dtype == np.int32
    connected = semantic_to_panoptic(paint(segments, np.array([4, 4, 6, 6])), [4])
    assert connected[0, :3, 1].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="no instances"):
        masks_to_panoptic(from_partition(np.zeros((2, 2), int)), np.array([4]), [4])
