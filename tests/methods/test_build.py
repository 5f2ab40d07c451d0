"""A memory is filled once, whatever is repeated; fallback rows say that they are; nothing of an image is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kc.encoders.base import Encoder
from kc.encoders.cache import UncachedFeatures
from kc.memory.disk import Memory
from kc.methods import regions as regions_module
from kc.methods.base import Context
from kc.methods.regions import RegionEncoder
from kc.methods.retrieval import build
from kc.methods.retrieval.build import (
    FallbackImages,
    Picture,
    add_fallback,
    add_labelled,
    add_named,
)
from kc.types import VOID, Float32Array, Int64Array, Segments, UInt8Array

DIM = 8
"""Of the toy encoder's pooled keys."""


def to_input(image: UInt8Array) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


def picture(seed: int) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, (32, 40, 3)).astype(np.uint8)


def keys_in(encoder: Encoder, keys: str = "pooled") -> build.KeysOf:
    """Keys of given regions, as a session makes them."""
    regions = RegionEncoder(encoder, UncachedFeatures(encoder), None, keys)

    def keys_of(image: UInt8Array, segments: Segments) -> Float32Array:
        batch = {"image": to_input(image)[None], "raw": [image], "sample_id": ["x"]}
        return regions.keys_of(batch, [0], [segments])[0]

    return keys_of


def batches(n: int = 3) -> Iterator[dict[str, Any]]:
    """One image a batch: class 1 left, class 2 right, void below, class 4 (not wanted) in a corner."""
    for i in range(n):
        labels = np.ones((32, 40), np.int64)
        labels[:, 20:] = 2
        labels[24:] = VOID
        labels[:8, :8] = 4
        raw = picture(i)
        yield {"image": to_input(raw)[None], "raw": [raw], "sample_id": [f"train/{i}"], "semantic": labels[None],
               "labels_raw": labels[None]}  # fmt: skip


@pytest.fixture
def memory(tmp_path: Path, toy_context: Callable[..., Context]) -> Iterator[Memory]:
    fingerprint = f"{toy_context().encoder.fingerprint}+oracle+pooled"
    with Memory.create(tmp_path / "memory", dim=DIM, fingerprint=fingerprint) as made:
        yield made


def rows(memory: Memory) -> list[tuple[str, int, int, str]]:
    r = memory.rows_of(memory.ids())
    return list(zip(r.sample_id, r.segment.tolist(), r.class_id.tolist(), r.source, strict=True))


# -- labelled images ---------------------------------------------------------------------------------------------------


def test_every_wanted_segment_of_every_image_becomes_a_row_once(
    memory: Memory, toy_context: Callable[..., Context]
) -> None:
    context = toy_context("semantic")
    regions = RegionEncoder(context.encoder, context.features, None, "pooled")
    done: list[int] = []
    n = add_labelled(memory, batches(), regions, [1, 2, 3], source="tiny", advance=done.append)
    # A true segment is numbered by its class and instance.
    assert rows(memory) == [(f"train/{i}", c << 32, c, "tiny") for i in range(3) for c in (1, 2)]
    assert (n, done) == (6, [1, 1, 1])
    before = memory.stats()
    assert add_labelled(memory, batches(), regions, [1, 2, 3], source="tiny") == 0
    assert memory.stats() == before
    keys = regions(next(batches()))[0].keys
    np.testing.assert_allclose(np.concatenate([t.vectors for t in memory.tables()])[:2], keys[:2], atol=1e-6)


def test_every_class_of_an_image_that_comes_back_is_stored(memory: Memory, toy_context: Callable[..., Context]) -> None:
    context = toy_context("semantic")
    regions = RegionEncoder(context.encoder, context.features, None, "pooled")
    for task, shown in enumerate([1, 2]):  # as in an overlapped stream: the same images, other classes are void
        shown_alone = [
            batch | {name: [np.where(x == shown, x, VOID) for x in batch[name]] for name in ("labels_raw", "semantic")}
            for batch in batches()
        ]
        assert add_labelled(memory, shown_alone, regions, [shown], task=task) == 3
    assert sorted(r[2] for r in rows(memory)) == [1, 1, 1, 2, 2, 2]


def test_impure_regions_are_no_rows(memory: Memory, toy_context: Callable[..., Context]) -> None:
    class Whole:
        key = name = "whole"

        def propose(self, image: UInt8Array) -> Segments:
            return Segments((32, 40), np.ones(1, np.float32), partition=np.zeros((32, 40), np.int32))

    context = toy_context("semantic")
    from kc.proposals.cache import PartitionCache

    partitions = PartitionCache(context.folder / "p", Whole())
    regions = RegionEncoder(context.encoder, context.features, partitions, "pooled")
    # Class 2 holds 24 of 32 rows of half the image: 0.375.
    assert add_labelled(memory, batches(1), regions, [1, 2], purity=0.38) == 0
    assert add_labelled(memory, batches(1), regions, [1, 2], purity=0.375) == 1


def test_an_interrupted_pass_keeps_what_was_committed_and_goes_on(
    memory: Memory, toy_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "COMMIT_EVERY", 2)
    context = toy_context("semantic")
    regions = RegionEncoder(context.encoder, context.features, None, "pooled")

    def broken() -> Iterator[dict[str, Any]]:
        yield from batches(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_labelled(memory, broken(), regions, [1, 2])
    assert len(Memory.open(memory.path)) == 4
    memory.close()
    with Memory.open(memory.path, write=True) as again:
        assert add_labelled(again, batches(4), regions, [1, 2]) == 4
        assert len(again) == 8
        assert [v.task for v in again.versions()] == [0]


def test_whole_images_of_a_classification_benchmark(
    tmp_path: Path, toy_context: Callable[..., Context], images: Callable[..., dict[str, Any]]
) -> None:
    context = toy_context()
    with Memory.create(tmp_path / "m", dim=5, fingerprint=context.encoder.fingerprint) as memory:
        assert add_labelled(memory, [images([1, 2, 2])], context.features, [1, 2]) == 3
        assert memory.labels().class_id.tolist() == [1, 2, 2]


def test_an_image_without_features_is_no_row(
    tmp_path: Path, toy_context: Callable[..., Context], images: Callable[..., dict[str, Any]]
) -> None:
    context, batch = toy_context(), images([1, 2])
    with torch.no_grad():
        context.encoder.body.weight.zero_()
        context.encoder.body.bias.zero_()
    with Memory.create(tmp_path / "m", dim=5, fingerprint=context.encoder.fingerprint) as memory:
        assert add_labelled(memory, [batch], context.features, [1, 2]) == 0


# -- named regions -----------------------------------------------------------------------------------------------------


class Bars:
    """Finds, of each name, as many bars as it has letters; nothing in a dark picture. Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def named(self, image: UInt8Array, names: Sequence[str]) -> tuple[Segments, Int64Array]:
        self.asked.append(tuple(names))
        position = np.array([i for i, n in enumerate(names) for _ in n if image.any()], np.int64)
        masks = np.zeros((len(position), *image.shape[:2]), bool)
        letters = [letter for n in names for letter in n if image.any()]
        for letter, mask in zip(letters, masks, strict=True):
            mask[:, ord(letter) - 97 : ord(letter) - 91] = True
        return Segments(image.shape[:2], np.ones(len(position), np.float32), masks=masks), position


def test_named_regions_are_told_apart_by_class_and_rank(memory: Memory, toy_context: Callable[..., Context]) -> None:
    keys = keys_in(toy_context().encoder)
    pictures = [Picture("a.jpg", picture(0)), Picture("dark.jpg", picture(0) * 0), Picture("b.jpg", picture(1))]
    bars = Bars()
    assert add_named(memory, pictures, {7: "ox", 3: "cat"}, bars, keys, source="web") == 10
    a = [("a.jpg", c * build.SEGMENTS_A_CLASS + i, c, "web") for c, n in ((7, 2), (3, 3)) for i in range(n)]
    assert rows(memory) == a + [("b.jpg", *r[1:]) for r in a]
    assert add_named(memory, pictures, {7: "ox", 3: "cat"}, bars, keys, source="web") == 0
    # Another name in front shifts the regions, but not which row is which.
    assert add_named(memory, pictures[:1], {9: "elk", 7: "ox", 3: "cat"}, bars, keys, source="web") == 3
    assert memory.labels().class_id.tolist()[-3:] == [9, 9, 9]


@pytest.mark.parametrize("keys", ["pooled", "masked"])
def test_keys_of_pictures_are_those_of_a_benchmark(
    toy_context: Callable[..., Context], keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, (batch,) = toy_context("semantic"), batches(1)
    wanted = RegionEncoder(context.encoder, context.features, None, keys)(batch)[0]
    made = keys_in(context.encoder, keys)(batch["raw"][0], wanted.segments)
    np.testing.assert_allclose(made, wanted.keys, atol=1e-3)  # both are made from what a cache keeps, in half precision
    assert regions_module.key_dim(context.encoder, keys) == made.shape[1]


# -- fallback ----------------------------------------------------------------------------------------------------------

FILES = ["Guinea_Pig/2.jpg", "Guinea_Pig/1.jpg", "ox/1.jpg", "ox/2.jpg", "ox/3.jpg"]


def fallback(context: Context, files: Sequence[str] = FILES, **more: Any) -> tuple[FallbackImages, list[str]]:
    read: list[str] = []

    def reader(file: str) -> UInt8Array:
        read.append(file)
        return picture(len(file))

    return FallbackImages(files, reader, keys_in(context.encoder), **more), read


def test_class_folders_answer_for_their_name_only(toy_context: Callable[..., Context]) -> None:
    images, read = fallback(toy_context())
    files, keys = zip(*images.found("guinea pig"), strict=True)
    assert [k.shape for k in keys] == [(1, DIM)] * 2
    np.testing.assert_allclose(np.linalg.norm(np.concatenate(keys), axis=1), 1, atol=1e-6)
    assert list(files) == read == ["Guinea_Pig/1.jpg", "Guinea_Pig/2.jpg"]
    images.found("guinea pig")
    assert images.found("unicorn") == []
    assert len(read) == 2
    assert len(fallback(toy_context(), limit=1)[0].found("ox")) == 1


def test_images_without_folders_are_looked_through_by_name(toy_context: Callable[..., Context]) -> None:
    bars = Bars()
    images, read = fallback(toy_context(), ["1.jpg", "2.jpg"], proposer=bars)
    assert sum(len(keys) for _, keys in images.found("ox")) == 4
    assert bars.asked == [("ox",)] * 2
    assert read == ["1.jpg", "2.jpg"]
    assert fallback(toy_context(), ["1.jpg"])[0].found("ox") == []


def test_only_names_without_a_row_are_looked_up_and_recorded_as_such(
    memory: Memory, toy_context: Callable[..., Context]
) -> None:
    keys = keys_in(toy_context().encoder)
    add_named(memory, [Picture("a.jpg", picture(0))], {0: "ox"}, Bars(), keys)
    images, read = fallback(toy_context())
    names = {0: "ox", 1: "guinea pig", 2: "unicorn"}
    assert add_fallback(memory, names, images) == {"guinea pig": 2, "unicorn": 0}
    assert all(file.startswith("Guinea_Pig") for file in read)
    assert [r[2:] for r in rows(memory)] == [(0, ""), (0, ""), (1, "fallback:guinea pig"), (1, "fallback:guinea pig")]
    assert memory.ids(source="fallback:guinea pig").tolist() == [2, 3]
    assert add_fallback(memory, names, images) == {"unicorn": 0}
    assert len(memory) == 4


# -- fingerprints ------------------------------------------------------------------------------------------------------
