"""Features on disk and in memory, so that an image is encoded once whatever the number of methods and epochs.

Layout: `folder/<fingerprint>/<H>x<W>/<2 hex>/<sha1 of the key>.f16`, one file a sample: magic, CRC-32 of what follows,
length and JSON of the shapes, float16 values of the pooled vector and of every level.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kc.budget import FEATURES, BoundedCache, cache_bytes
from kc.encoders.base import Encoder
from kc.errors import RunError
from kc.files import file_name, hashed_path, read_checked, write_checked
from kc.types import Features

MAGIC = b"KCF1"
HALF_MAX = float(np.finfo(np.float16).max)

Shapes = tuple[tuple[int, ...], ...]
Entry = tuple[Shapes, npt.NDArray[np.float16]]


class FeatureCache:
    """Features of samples by key, of one encoder, stored as float16.

    The numbers are always those of float16, cached or not, so that a first run and a second one agree to the bit.
    An entry belongs to the encoder's fingerprint and the input size, so that changed weights never meet old features.
    `ram_bytes` bounds what is kept in memory (None: the share of features in `kc.budget`). Safe with several processes
    on one folder: entries appear atomically and writers of the same entry write the same bytes.
    """

    def __init__(self, folder: Path | str, encoder: Encoder, ram_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        self.encoder = encoder
        budget = cache_bytes(FEATURES) if ram_bytes is None else ram_bytes
        self._ram: BoundedCache[Path, Entry] = BoundedCache(budget, lambda entry: entry[1].nbytes)
        _make_folder(self.folder)

    def encode(self, images: Tensor, keys: Sequence[str]) -> Features:
        """Features of `images` (N, 3, H, W) float RGB in [0, 1] by `keys` (N), float32, on the images' device.

        Known keys are looked up, whatever their image; the others are encoded and stored. Raises RunError where the
        folder cannot be written, ValueError where the number of keys is not that of the images.
        """
        if len(images) != len(keys):
            raise ValueError(f"{len(images)} images but {len(keys)} keys")
        if not keys:
            raise ValueError("no image to encode")
        paths = self._paths(keys, (images.shape[-2], images.shape[-1]))
        entries = {path: self._find(path) for path in paths}
        todo = {path: i for i, path in enumerate(paths) if entries[path] is None}
        if todo:
            parts = _halves(self.encoder.encode(images[list(todo.values())]))
            shapes = tuple(part.shape[1:] for part in parts)
            for row, path in enumerate(todo):
                entry = (shapes, np.concatenate([part[row].reshape(-1) for part in parts]))
                write_checked(path, MAGIC, packed(shapes, entry[1].tobytes()))
                self._ram.put(path, entry)
                entries[path] = entry
        return self._features([entries[path] for path in paths], images.device)

    def missing(self, keys: Sequence[str], size: tuple[int, int]) -> list[str]:
        """The keys without an entry at input `size` (H, W), in order. A damaged file still counts as present here."""
        paths = self._paths(keys, size)
        return [key for key, path in zip(keys, paths, strict=True) if path not in self._ram and not path.is_file()]

    def get(self, keys: Sequence[str], size: tuple[int, int]) -> Features | None:
        """Features of `keys` at input `size` (H, W) on the encoder's device, or None where any is missing or damaged.

        Lets a caller skip reading the images altogether.
        """
        entries: list[Entry] = []
        for path in self._paths(keys, size):
            if (entry := self._find(path)) is None:
                return None
            entries.append(entry)
        device = next((parameter.device for parameter in self.encoder.parameters()), torch.device("cpu"))
        return self._features(entries, device) if entries else None

    def _paths(self, keys: Sequence[str], size: tuple[int, int]) -> list[Path]:
        root = self.folder / file_name(self.encoder.fingerprint) / f"{size[0]}x{size[1]}"
        return [hashed_path(root, key, ".f16") for key in keys]

    def _find(self, path: Path) -> Entry | None:
        kept = self._ram.get(path)
        if kept is not None:
            return kept
        body, expected = read_checked(path, MAGIC), (self.encoder.pooled_dim, *self.encoder.channels)
        if body is None:
            return None
        shapes, start = unpacked(body)
        if tuple(shape[0] for shape in shapes) != expected:
            return None
        entry = (shapes, np.frombuffer(body, np.float16, offset=start))
        self._ram.put(path, entry)
        return entry

    def _features(self, entries: Sequence[Entry | None], device: torch.device) -> Features:
        found = [entry for entry in entries if entry is not None]
        shapes = found[0][0]
        rows = np.stack([values for _, values in found]).astype(np.float32)
        stops = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
        each = zip(np.split(rows, stops, axis=1), shapes, strict=True)
        parts = [torch.from_numpy(x.reshape(len(found), *shape)).to(device) for x, shape in each]
        return Features(parts[0], tuple(parts[1:]), self.encoder.strides)


def _halves(features: Features) -> list[npt.NDArray[np.float16]]:
    """The pooled vectors and every level, in the order they are stored."""
    # Saturate: an infinity would turn every distance to this sample into NaN.
    parts = (features.pooled, *features.levels)
    return [x.detach().float().clamp(-HALF_MAX, HALF_MAX).half().cpu().numpy() for x in parts]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the feature cache {folder}, choose another: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise RunError(f"the feature cache {folder} is not writable. Choose a writable folder")


def packed(shapes: Shapes, values: bytes) -> bytes:
    """Length of the header, header (JSON of `shapes`), values."""
    header = json.dumps(shapes).encode()
    header += b" " * (-len(header) % 4)  # aligned values
    return struct.pack("<I", len(header)) + header + values


def unpacked(body: bytes) -> tuple[Shapes, int]:
    """The shapes in a `packed` body, and where its values begin."""
    length = int.from_bytes(body[:4], "little")
    return tuple(tuple(shape) for shape in json.loads(body[4 : 4 + length])), 4 + length


class UncachedFeatures(FeatureCache):
    """The same numbers for images that are looked at once and must leave nothing on disk."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def encode(self, images: Tensor, keys: Sequence[str]) -> Features:
        """Features of `images` (N, 3, H, W) float RGB in [0, 1], rounded as the cache rounds them."""
        fresh = self.encoder.encode(images)
        parts = [torch.from_numpy(x.astype(np.float32)).to(images.device) for x in _halves(fresh)]
        return Features(parts[0], tuple(parts[1:]), fresh.strides)
