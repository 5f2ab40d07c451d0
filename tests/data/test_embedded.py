"""The embedded sets: balanced, exact, repeatable, and without a digit or a pixel shared by train and test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from kc.data.manifest import load_manifest
from kc.data.readers import embedded, scenes
from kc.data.readers.open import open_reader
from kc.errors import DataError, ManifestError


def test_pools_share_no_digit_image() -> None:
    pools = scenes.digit_pools(seed=0)
    train = {image.tobytes() for image in pools.train_images}
    test = {image.tobytes() for image in pools.test_images}
    assert (len(pools.train_images), len(pools.test_images)) == (4000, 1000)
    assert not train & test
    assert np.bincount(pools.train_digits).tolist() == [400] * 10
    assert np.bincount(pools.test_digits).tolist() == [100] * 10


def test_photographs_are_divided_in_halves() -> None:
    for left, right in zip(scenes.photographs(test=False), scenes.photographs(test=True), strict=True):
        assert left.shape[0] == right.shape[0]
        assert abs(left.shape[1] - right.shape[1]) <= 1
        assert min(left.shape[:2]) >= 96


def test_scenes_have_two_to_four_visible_digits(tiny_scenes: SimpleNamespace) -> None:
    reader = open_reader(tiny_scenes.manifest, "train")
    assert len(reader) == 20
    counts = np.zeros(11, dtype=int)
    for i in range(20):
        sample = reader.read(i)
        assert sample.panoptic is not None
        assert sample.semantic is not None
        assert sample.image.shape == (128, 128, 3)
        assert sample.panoptic.dtype == np.int32
        assert np.array_equal(sample.semantic, sample.panoptic[..., 0])
        instances = np.unique(sample.panoptic[..., 1])
        assert instances.tolist() == list(range(len(instances)))
        assert 2 <= len(instances) - 1 <= 4
        assert np.array_equal(sample.panoptic[..., 0] == 0, sample.panoptic[..., 1] == 0)
        for instance in instances[1:]:
            classes = np.unique(sample.semantic[sample.panoptic[..., 1] == instance])
            assert len(classes) == 1
            counts[classes[0]] += 1
            assert (sample.panoptic[..., 1] == instance).sum() >= scenes.MIN_VISIBLE_PIXELS
        held = np.isin(np.arange(11), sample.semantic)
        assert np.array_equal(held, reader.class_table[i])
    assert counts[1:].max() - counts[1:].min() <= 4


def test_some_scenes_hold_one_class_only(tiny_scenes: SimpleNamespace) -> None:
    table = open_reader(tiny_scenes.manifest, "train").class_table
    alone = table[table[:, 1:].sum(axis=1) == 1][:, 1:]
    assert len(alone) >= 4  # each fifth, for the settings that need images of one task only
    assert [int(np.argmax(row)) for row in table[4::5, 1:]] == [0, 1, 2, 3]


def test_scenes_stand_out_from_their_background() -> None:
    """In every scene the digits' mean colour is far from that of the pixels around them."""
    pools = scenes.digit_pools(seed=0)
    for scene in scenes.compose_split(pools.train_images, pools.train_digits, 10, seed=3, test=False):
        for instance in range(1, scene.instance.max() + 1):
            inside = scene.instance == instance
            rows, columns = np.nonzero(inside)
            box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            around = scene.image[box][~inside[box]].astype(float).mean(axis=0)
            assert np.abs(scene.image[inside].astype(float).mean(axis=0) - around).max() > 30


def test_the_same_seed_gives_the_same_scenes() -> None:
    pools = scenes.digit_pools(seed=0)
    runs = [list(scenes.compose_split(pools.test_images, pools.test_digits, 5, seed, test=True)) for seed in (0, 0, 1)]
    for first, second in zip(runs[0], runs[1], strict=True):
        assert np.array_equal(first.image, second.image)
        assert np.array_equal(first.instance, second.instance)
    assert not all(np.array_equal(a.image, b.image) for a, b in zip(runs[0], runs[2], strict=True))


def test_composed_once_and_again_where_the_cache_is_damaged(
    tiny_scenes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KC_CACHE", str(tmp_path / "cache"))
    made: list[bool] = []
    original = scenes.compose_split

    def counted(*args: object, **kwargs: object) -> object:
        made.append(True)
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(embedded.scenes, "compose_split", counted)
    first = open_reader(tiny_scenes.manifest, "test").read(3)
    open_reader(tiny_scenes.manifest, "train")
    assert len(made) == 2  # one a split, both at the first use
    (folder,) = (tmp_path / "cache").iterdir()  # and nothing half-written beside it
    file = folder / "test-images.npy"
    file.write_bytes(file.read_bytes()[:1000])
    again = open_reader(tiny_scenes.manifest, "test").read(3)
    assert len(made) == 4
    assert np.array_equal(first.image, again.image)


def test_scenes_as_semantic(tmp_path: Path, tiny_scenes: SimpleNamespace) -> None:
    path = tmp_path / "semantic.yaml"
    path.write_text(yaml.safe_dump(tiny_scenes.content | {"task_kind": "semantic", "splits": {"test": {"count": 2}}}))
    sample = open_reader(load_manifest(path), "test").read(0)
    assert sample.panoptic is None
    assert sample.semantic is not None


def test_digits_twin() -> None:
    manifest = load_manifest("digits")
    train, test = open_reader(manifest, "train"), open_reader(manifest, "test")
    assert (len(train), len(test)) == (4000, 1000)
    assert train.class_table.sum(axis=0).tolist() == [400] * 10
    sample = test.read(0)
    assert sample.image.shape == (28, 28, 3)
    assert sample.label is not None
    assert test.class_table[0, sample.label]
    pools = scenes.digit_pools(seed=0)
    assert np.array_equal(sample.image[..., 0], pools.test_images[0])
    assert open_reader(manifest, "test", limit=30).class_table.sum(axis=0).tolist() == [3] * 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"splits": {"train": {"count": 4001}}}, "there are 4000 digits"),
        ({"splits": {"train": {"count": 5}, "val": {"count": 5}}}, "no val"),
        ({"classes": [{"id": 0, "name": "null"}], "task_splits": {}}, "classes of this embedded set are 0 zero"),
    ],
)
def test_manifests_that_do_not_fit_the_set(tmp_path: Path, change: dict[str, object], said: str) -> None:
    content = load_manifest("digits").model_dump(mode="json", exclude={"splits"})
    content["splits"] = {"train": {"count": 4000}, "test": {"count": 1000}}
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (content | change).items() if v is not None}))
    with pytest.raises(ManifestError, match=said):
        open_reader(load_manifest(path), "train")


def test_no_val_split() -> None:
    with pytest.raises(DataError, match="digit-scenes has no split 'val'; its splits: train, test"):
        open_reader(load_manifest("digit-scenes"), "val")
