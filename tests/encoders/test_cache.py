"""Features on disk: the same numbers whether cached or not, nothing half-written, damage repaired."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kc.encoders.base import Encoder
from kc.encoders.cache import FeatureCache
from kc.errors import RunError
from kc.types import Features

SIZE = (8, 12)


class Counting(Encoder):
    """Counts the images it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "hub:counting/a"
        self.architecture = "conv"
        self.strides = (4,)
        self.channels = (5,)
        self.pooled_dim = 5
        self.preprocessing = ()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 4, 4)
        self.count = 0

    def forward(self, images: Tensor) -> Features:
        self.count += len(images)
        level = self.conv(images)
        return Features(level.mean((2, 3)), (level,), self.strides)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(1))


KEYS = ["train/a", "train/b", "test/a", "ü ../x"]


def same(a: Features, b: Features) -> bool:
    return torch.equal(a.pooled, b.pooled) and all(map(torch.equal, a.levels, b.levels)) and a.strides == b.strides


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_values_are_float16_of_the_encoder_cached_or_not(tmp_path: Path, images: Tensor) -> None:
    encoder = Counting()
    cache = FeatureCache(tmp_path, encoder)
    first = cache.encode(images, KEYS)
    raw = encoder.encode(images)
    assert torch.equal(first.pooled, raw.pooled.half().float())
    assert torch.equal(first.levels[0], raw.levels[0].half().float())
    assert first.pooled.dtype == torch.float32
    encoder.count = 0
    assert same(cache.encode(images, KEYS), first)
    assert same(FeatureCache(tmp_path, encoder).encode(images, KEYS), first)
    assert encoder.count == 0


def test_only_missing_samples_are_encoded_and_order_is_kept(tmp_path: Path, images: Tensor) -> None:
    encoder = Counting()
    cache = FeatureCache(tmp_path, encoder)
    everything = cache.encode(images, KEYS)
    other = FeatureCache(tmp_path / "other", encoder)
    other.encode(images[1:2], KEYS[1:2])
    encoder.count = 0
    order = [3, 1, 0]
    mixed = other.encode(images[order], [KEYS[i] for i in order])
    assert encoder.count == 2
    assert torch.equal(mixed.pooled, everything.pooled[order])


def test_a_key_twice_in_a_batch_is_encoded_once(tmp_path: Path, images: Tensor) -> None:
    encoder = Counting()
    features = FeatureCache(tmp_path, encoder).encode(images[[0, 0, 1]], ["a", "a", "b"])
    assert encoder.count == 2
    assert torch.equal(features.pooled[0], features.pooled[1])


def test_missing_and_get_spare_the_images(tmp_path: Path, images: Tensor) -> None:
    cache = FeatureCache(tmp_path, Counting())
    assert cache.missing(KEYS, SIZE) == KEYS
    assert cache.get(KEYS, SIZE) is None
    features = cache.encode(images[:2], KEYS[:2])
    assert cache.missing(KEYS, SIZE) == KEYS[2:]
    assert cache.get(KEYS, SIZE) is None
    found = FeatureCache(tmp_path, cache.encoder).get(KEYS[:2], SIZE)
    assert found is not None
    assert same(found, features)


def test_another_size_and_other_weights_are_other_entries(tmp_path: Path, images: Tensor) -> None:
    encoder = Counting()
    cache = FeatureCache(tmp_path, encoder)
    before = cache.encode(images, KEYS)
    assert cache.missing(KEYS, (16, 16)) == KEYS
    with torch.no_grad():
        encoder.conv.bias += 1
    assert cache.missing(KEYS, SIZE) == KEYS
    assert not torch.equal(cache.encode(images, KEYS).pooled, before.pooled)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_damaged_entries_are_encoded_again(tmp_path: Path, images: Tensor, damage: str) -> None:
    encoder = Counting()
    good = FeatureCache(tmp_path, encoder).encode(images, KEYS)
    path = files(tmp_path)[0]
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    path.write_bytes(data[: {"truncate": 20, "flip": len(data), "empty": 0}[damage]])
    cache = FeatureCache(tmp_path, encoder)
    assert cache.get(KEYS, SIZE) is None
    encoder.count = 0
    assert same(cache.encode(images, KEYS), good)
    assert encoder.count == 1
    assert FeatureCache(tmp_path, encoder).get(KEYS, SIZE) is not None


def test_memory_is_bounded_and_eviction_changes_nothing(tmp_path: Path, images: Tensor) -> None:
    encoder = Counting()
    entry = 2 * (5 + 5 * 2 * 3)
    cache = FeatureCache(tmp_path, encoder, ram_bytes=2 * entry)
    first = cache.encode(images, KEYS)
    assert cache._ram.used == 2 * entry
    assert len(cache._ram) == 2
    encoder.count = 0
    for _ in range(3):
        assert same(cache.encode(images, KEYS), first)
    assert encoder.count == 0
    assert cache._ram.used == 2 * entry
    nothing = FeatureCache(tmp_path, encoder, ram_bytes=0)
    assert same(nothing.encode(images, KEYS), first)
    assert nothing._ram.used <= entry


def test_huge_features_saturate_instead_of_becoming_infinite(tmp_path: Path, images: Tensor) -> None:
    encoder = Counting()
    with torch.no_grad():
        encoder.conv.bias.fill_(1e6)
    features = FeatureCache(tmp_path, encoder).encode(images, KEYS)
    assert features.pooled.max() == 65504


def test_no_temporary_files_stay(tmp_path: Path, images: Tensor) -> None:
    FeatureCache(tmp_path, Counting()).encode(images, KEYS)
    assert [path.suffix for path in files(tmp_path)] == [".f16"] * 4
    assert all(path.resolve().is_relative_to(tmp_path) for path in files(tmp_path))


def test_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot create the feature cache"):
        FeatureCache(tmp_path / "file" / "cache", Counting())


def test_full_disk_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path, Counting())

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RunError, match="No space left"):
        cache.encode(images, KEYS)
    assert files(tmp_path) == []
    assert cache.missing(KEYS, SIZE) == KEYS


def test_keys_must_match_images(tmp_path: Path, images: Tensor) -> None:
    with pytest.raises(ValueError, match="4 images but 1 keys"):
        FeatureCache(tmp_path, Counting()).encode(images, ["a"])
