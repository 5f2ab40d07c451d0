"""Partitions read back equal those made; damage is repaired; nothing is made twice or half written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from kc.errors import RunError
from kc.files import write_checked
from kc.proposals.base import from_partition
from kc.proposals.cache import PARTITION, PartitionCache
from kc.types import Segments, UInt8Array

IMAGE = np.zeros((6, 8, 3), dtype=np.uint8)


class Stripes:
    """Vertical stripes; counts how often it is asked."""

    name = "stripes"

    def __init__(self, width: int = 2) -> None:
        self.width = width
        self.key = f"stripes-{width}"
        self.calls = 0

    def propose(self, image: UInt8Array) -> Segments:
        self.calls += 1
        height, width = image.shape[:2]
        return from_partition(np.tile(np.arange(width) // self.width, (height, 1)))


def test_made_once_and_equal_when_read_back(tmp_path: Path) -> None:
    proposer = Stripes()
    cache = PartitionCache(tmp_path, proposer)
    first = cache.propose(IMAGE, "train/a")
    again = PartitionCache(tmp_path, proposer).propose(IMAGE, "train/a")
    assert proposer.calls == 1
    assert first.partition is not None
    assert again.partition is not None
    np.testing.assert_array_equal(first.partition, again.partition)
    assert again.partition.dtype == first.partition.dtype
    assert again.size == first.size == (6, 8)
    assert again.scores.tolist() == first.scores.tolist()
    assert not list(tmp_path.rglob("*.tmp"))


def test_settings_do_not_share_entries(tmp_path: Path) -> None:
    assert len(PartitionCache(tmp_path, Stripes(2)).propose(IMAGE, "a")) == 4
    assert len(PartitionCache(tmp_path, Stripes(4)).propose(IMAGE, "a")) == 2


@pytest.mark.parametrize("damage", [b"", b"not an array", "cut", "size", "type", "gap"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: bytes | str) -> None:
    proposer = Stripes()
    cache = PartitionCache(tmp_path, proposer)
    expected = cache.propose(IMAGE, "a").partition
    (path,) = tmp_path.rglob("*.regions")
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "size":
        stored(path, np.zeros((5, 8), np.uint16))
    elif damage == "gap":
        stored(path, np.full((6, 8), 3, np.uint16))
    else:
        stored(path, np.zeros((6, 8), np.float32))
    for _ in range(2):
        repaired = cache.propose(IMAGE, "a").partition
        assert repaired is not None
        np.testing.assert_array_equal(repaired, expected)
    assert proposer.calls == 2


def stored(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_checked(path, PARTITION, buffer.getvalue())


class Masks(Stripes):
    """Two overlapping masks; none for a dark image."""

    def propose(self, image: UInt8Array) -> Segments:
        self.calls += 1
        masks = np.zeros((2, 6, 8), bool)
        masks[0, :4], masks[1, 2:, :5] = True, True
        n = 2 if image.any() else 0
        return Segments((6, 8), np.array([1 / 3, 0.1], np.float32)[:n], masks=masks[:n])


@pytest.mark.parametrize("image", [IMAGE, IMAGE + 1], ids=["no mask", "two masks"])
def test_masks_that_overlap_are_stored_too(tmp_path: Path, image: UInt8Array) -> None:
    proposer = Masks()
    cache = PartitionCache(tmp_path, proposer)
    first, again = cache.propose(image, "a"), cache.propose(image, "a")
    assert proposer.calls == 1
    assert first.masks is not None
    assert again.masks is not None
    assert again.masks.dtype == bool
    np.testing.assert_array_equal(again.masks, first.masks)
    np.testing.assert_array_equal(again.scores, first.scores)
    assert again.scores.dtype == np.float32
    assert again.size == (6, 8)


@pytest.mark.parametrize("damage", ["empty", "cut", "digit", "size"])
def test_damaged_masks_are_made_again(tmp_path: Path, damage: str) -> None:
    proposer = Masks()
    cache = PartitionCache(tmp_path, proposer)
    expected = cache.propose(IMAGE + 1, "a").masks
    (path,) = tmp_path.rglob("*.regions")
    data = bytearray(path.read_bytes())
    if damage == "size":
        assert len(cache.propose(np.ones((5, 8, 3), np.uint8), "a")) == 2
    else:
        data[-10] ^= 1
        path.write_bytes({"empty": b"", "cut": data[:-7], "digit": data}[damage])
    repaired = cache.propose(IMAGE + 1, "a").masks
    assert proposer.calls == 2
    np.testing.assert_array_equal(repaired, expected)


@pytest.mark.parametrize("proposer", [Stripes(), Masks()], ids=["partition", "masks"])
def test_no_flipped_bit_is_used_in_silence(tmp_path: Path, proposer: Stripes) -> None:
    cache = PartitionCache(tmp_path, proposer)
    expected = cache.propose(IMAGE + 1, "a")
    (path,) = tmp_path.rglob("*.regions")
    data = path.read_bytes()
    calls = proposer.calls
    for at in range(len(data)):
        for bit in (1, 128):
            path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            cache.propose(IMAGE + 1, "a")
            calls += 1
            assert proposer.calls == calls
    assert path.read_bytes() == data
    assert len(cache.propose(IMAGE + 1, "a")) == len(expected)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunError, match="file"):
        PartitionCache(blocked, Stripes()).propose(IMAGE, "a")
