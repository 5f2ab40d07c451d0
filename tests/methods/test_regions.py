"""Cutting regions out: boxes, masks and colours by hand."""

from __future__ import annotations

import numpy as np
import torch

from kc.encoders.lite import load_lite0
from kc.methods.regions import CROP, cut_out, masked_keys, segment_boxes
from kc.types import Segments


def two_regions() -> tuple[np.ndarray, Segments]:
    """A 20 x 30 image, red inside a 6 x 4 block, blue elsewhere."""
    partition = np.zeros((20, 30), np.int32)
    partition[5:11, 8:12] = 1
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 2] = 200
    image[partition == 1] = (200, 0, 0)
    return image, Segments((20, 30), np.ones(2, np.float32), partition=partition)


def test_boxes_of_partition_and_masks_agree() -> None:
    _, segments = two_regions()
    assert segments.partition is not None
    masks = np.stack([segments.partition == 0, segments.partition == 1])
    expected = [[0, 0, 20, 30], [5, 8, 11, 12]]
    assert segment_boxes(segments).tolist() == expected
    assert segment_boxes(Segments((20, 30), segments.scores, masks=masks)).tolist() == expected


def test_an_empty_region_has_a_box_too() -> None:
    masks = np.zeros((1, 4, 4), bool)
    assert segment_boxes(Segments((4, 4), np.ones(1, np.float32), masks=masks)).tolist() == [[0, 0, 1, 1]]


def test_a_crop_holds_the_region_and_nothing_else() -> None:
    image, segments = two_regions()
    crops, inside = cut_out(image, segments)
    assert crops.shape == (2, 3, CROP, CROP)
    red = crops[1].transpose(1, 2, 0)[inside[1]]
    assert (red == (200, 0, 0)).all()
    # The block is 6 x 4 in a square of side 6 * 1.2: 24 / 51.84 of the crop.
    assert abs(inside[1].mean() - 24 / 51.84) < 0.03
    blue = crops[0].transpose(1, 2, 0)[inside[0]]
    assert (blue == (0, 0, 200)).all()


def test_outside_the_image_is_not_inside_the_region() -> None:
    whole = Segments((8, 8), np.ones(1, np.float32), masks=np.ones((1, 8, 8), bool))
    _, inside = cut_out(np.full((8, 8, 3), 9, np.uint8), whole)
    assert not inside[0, 0].any()
    assert inside[0, CROP // 2, CROP // 2]


def test_masked_keys_see_shape_and_not_surroundings() -> None:
    image, segments = two_regions()
    encoder = load_lite0()
    keys = masked_keys(encoder, image, segments, torch.device("cpu"))
    assert keys.shape == (2, 4 * (40 + 112))
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1.0, atol=1e-6)
    other = image.copy()
    other[segments.partition == 0] = (0, 90, 0)
    again = masked_keys(encoder, other, segments, torch.device("cpu"))
    np.testing.assert_allclose(again[1], keys[1], atol=1e-5)
    assert float(again[0] @ keys[0]) < 0.999
    assert not encoder.training
