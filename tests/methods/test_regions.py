"""Cutting regions out: boxes, masks and colours by hand; keys are kept on disk, true segments are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kc.encoders.lite import Lite0
from kc.errors import RunError
from kc.methods.base import Context
from kc.methods.predictions import to_prediction
from kc.methods.regions import CROP, KeyStore, RegionEncoder, cut_out, masked_keys, segment_boxes
from kc.proposals.base import from_partition
from kc.proposals.cache import PartitionCache
from kc.types import VOID, ClassInfo, Segments


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
    encoder = Lite0.load()
    keys = masked_keys(encoder, image, segments, torch.device("cpu"))
    assert keys.shape == (2, 4 * (40 + 112))
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1.0, atol=1e-6)
    other = image.copy()
    other[segments.partition == 0] = (0, 90, 0)
    again = masked_keys(encoder, other, segments, torch.device("cpu"))
    np.testing.assert_allclose(again[1], keys[1], atol=1e-5)
    assert float(again[0] @ keys[0]) < 0.999
    assert not encoder.training


# -- keys on disk ------------------------------------------------------------------------------------------------------


class Halves:
    """Left and right half, two overlapping masks, or no region at all."""

    name = "halves"

    def __init__(self, kind: str = "partition") -> None:
        self.kind = kind
        self.key = f"halves-{kind}"

    def propose(self, image: np.ndarray) -> Segments:
        height, width = image.shape[:2]
        left = np.arange(width) < width // 2
        if self.kind == "partition":
            return from_partition(np.tile(left.astype(int), (height, 1)))
        masks = np.stack([np.tile(left, (height, 1)), np.ones((height, width), bool)])
        n = 2 if self.kind == "masks" else 0
        return Segments((height, width), np.ones(n, np.float32), masks=masks[:n])


def picture_batch(seed: int = 0) -> dict[str, Any]:
    raw = np.random.default_rng(seed).integers(0, 256, (2, 32, 40, 3)).astype(np.uint8)
    image = torch.from_numpy(raw).permute(0, 3, 1, 2).float() / 255
    labels = np.zeros((2, 32, 40), np.int64)
    return {"image": image, "raw": list(raw), "sample_id": ["train/a", "train/b"], "semantic": labels}


def region_encoder(context: Context, folder: Path | None, keys: str, proposer: Halves | None) -> RegionEncoder:
    partitions = None if proposer is None else PartitionCache(context.folder / "proposals", proposer)
    return RegionEncoder(context.encoder, context.features, partitions, keys, folder=folder)


@pytest.mark.parametrize("keys", ["pooled", "masked"])
@pytest.mark.parametrize("kind", ["partition", "masks", "none"])
def test_keys_are_made_once_and_read_back_to_the_bit(
    toy_context: Callable[..., Context], keys: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, batch = toy_context("semantic"), picture_batch()
    plain = region_encoder(context, None, keys, Halves(kind))(batch)
    first = region_encoder(context, context.folder / "keys", keys, Halves(kind))(batch)
    assert len(list((context.folder / "keys").rglob("*.f32"))) == 2
    monkeypatch.setattr(RegionEncoder, "keys_of", lambda self, batch, rows, segments: [] if not rows else 1 / 0)
    again = region_encoder(context, context.folder / "keys", keys, Halves(kind))(batch)
    for a, b, c in zip(plain, first, again, strict=True):
        assert a.keys.dtype == c.keys.dtype == np.float32
        assert a.keys.shape == (len(a.segments), region_encoder(context, None, keys, Halves(kind)).dim)
        assert a.keys.tobytes() == b.keys.tobytes() == c.keys.tobytes()


def test_other_weights_regions_sizes_and_ways_do_not_share_keys(toy_context: Callable[..., Context]) -> None:
    context, batch = toy_context("semantic"), picture_batch()
    folder = context.folder / "keys"

    def files() -> int:
        return len(list(folder.rglob("*.f32")))

    region_encoder(context, folder, "pooled", Halves())(batch)
    region_encoder(context, folder, "pooled", Halves("masks"))(batch)
    assert files() == 4
    smaller = {**batch, "image": batch["image"][..., :16, :16], "sample_id": ["train/c", "train/d"]}
    region_encoder(context, folder, "pooled", Halves())(smaller)
    region_encoder(context, folder, "pooled", Halves())({**batch, "sample_id": ["train/c", "train/d"]})
    assert files() == 8
    region_encoder(context, folder, "masked", Halves())(batch)
    assert files() == 10
    with torch.no_grad():
        next(context.encoder.parameters()).add_(1)
    region_encoder(context, folder, "masked", Halves())(batch)
    assert files() == 12


@pytest.mark.parametrize("damage", ["cut", "bit", "rows"])
def test_damaged_keys_are_made_again(toy_context: Callable[..., Context], damage: str) -> None:
    context, batch = toy_context("semantic"), picture_batch()
    folder = context.folder / "keys"
    expected = region_encoder(context, folder, "pooled", Halves())(batch)[0].keys
    store = KeyStore(folder, context.encoder, "halves-partition")
    path = store._path("train/a", "pooled-32x40")
    data = bytearray(path.read_bytes())
    if damage == "rows":
        store.write("train/a", "pooled-32x40", expected[:1])
    else:
        data[-3] ^= 1
        path.write_bytes(data if damage == "bit" else data[:-4])
    np.testing.assert_array_equal(region_encoder(context, folder, "pooled", Halves())(batch)[0].keys, expected)
    assert bytes(path.read_bytes()) != bytes(data) or damage == "rows"
    np.testing.assert_array_equal(store.read("train/a", "pooled-32x40", expected.shape), expected)


def test_true_segments_are_never_kept(toy_context: Callable[..., Context]) -> None:
    """They depend on which labels may be seen: the same image has other segments later."""
    context, batch = toy_context("semantic"), picture_batch()
    encoder = region_encoder(context, context.folder / "keys", "pooled", None)
    first = encoder(batch)
    later = batch["semantic"].copy()
    later[:, :16] = 1
    second = encoder({**batch, "semantic": later})
    assert [len(r.segments) for r in first] == [1, 1]
    assert [len(r.segments) for r in second] == [2, 2]
    assert not list(context.folder.rglob("*.f32"))
    assert encoder.missing(["train/a"]) == ["train/a"]


def test_a_folder_that_cannot_be_written(toy_context: Callable[..., Context], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        region_encoder(toy_context("semantic"), tmp_path / "file", "pooled", Halves())(picture_batch())


def test_masks_become_instances_where_a_partition_needs_connected_areas(toy_context: Callable[..., Context]) -> None:
    context = toy_context("panoptic")
    context.classes = {0: ClassInfo(0, "sky"), 1: ClassInfo(1, "cat", is_thing=True)}
    regions = region_encoder(context, None, "pooled", Halves("masks"))(picture_batch())
    cats = [np.array([1, 1])] * 2
    apart = to_prediction(context, (0, 1), regions, cats)
    # Of equal scores the last is on top, so that the whole image hides the half.
    assert np.unique(apart.panoptic[0][..., 1]).tolist() == [2]
    parts = region_encoder(context, None, "pooled", Halves())(picture_batch())
    joined = to_prediction(context, (0, 1), parts, cats)
    assert np.unique(joined.panoptic[0][..., 1]).tolist() == [1]
    nothing = region_encoder(context, None, "pooled", Halves("none"))(picture_batch())
    empty = to_prediction(context, (0, 1), nothing, [np.zeros(0, np.int64)] * 2)
    assert (empty.semantic[0] == VOID).all()
    assert (empty.panoptic[0] == [VOID, 0]).all()
