"""Partitions read back equal those made; damage is repaired; nothing is made twice or half written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kc.errors import RunError
from kc.proposals.base import from_partition
from kc.proposals.cache import PartitionCache
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
    assert cache.missing(["train/a", "train/b"]) == ["train/a", "train/b"]
    first = cache.propose(IMAGE, "train/a")
    again = PartitionCache(tmp_path, proposer).propose(IMAGE, "train/a")
    assert proposer.calls == 1
    assert first.partition is not None
    assert again.partition is not None
    np.testing.assert_array_equal(first.partition, again.partition)
    assert again.partition.dtype == first.partition.dtype
    assert again.size == first.size == (6, 8)
    assert again.scores.tolist() == first.scores.tolist()
    assert cache.missing(["train/a", "train/b"]) == ["train/b"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_settings_do_not_share_entries(tmp_path: Path) -> None:
    assert len(PartitionCache(tmp_path, Stripes(2)).propose(IMAGE, "a")) == 4
    assert len(PartitionCache(tmp_path, Stripes(4)).propose(IMAGE, "a")) == 2


@pytest.mark.parametrize("damage", [b"", b"not an array", "cut", "pickle", "size", "type", "gap"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: bytes | str) -> None:
    proposer = Stripes()
    cache = PartitionCache(tmp_path, proposer)
    expected = cache.propose(IMAGE, "a").partition
    (path,) = tmp_path.rglob("*.npy")
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif damage == "size":
        np.save(path, np.zeros((5, 8), np.uint16))
    elif damage == "gap":
        np.save(path, np.full((6, 8), 3, np.uint16))
    else:
        np.save(path, np.zeros((6, 8), np.float32))
    for _ in range(2):
        repaired = cache.propose(IMAGE, "a").partition
        assert repaired is not None
        np.testing.assert_array_equal(repaired, expected)
    assert proposer.calls == 2


def test_masks_are_not_stored_but_given(tmp_path: Path) -> None:
    class Masks(Stripes):
        def propose(self, image: UInt8Array) -> Segments:
            self.calls += 1
            return Segments((6, 8), np.ones(1, np.float32), masks=np.ones((1, 6, 8), bool))

    proposer = Masks()
    cache = PartitionCache(tmp_path, proposer)
    assert cache.propose(IMAGE, "a").masks is not None
    assert cache.propose(IMAGE, "a").masks is not None
    assert proposer.calls == 2


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunError, match="cannot write proposals"):
        PartitionCache(blocked, Stripes()).propose(IMAGE, "a")
