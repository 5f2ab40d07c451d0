"""Keys of regions on disk: blacking out and encoding every region costs more than everything else of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kc.encoders.base import Encoder
from kc.encoders.cache import packed, read_checked, unpacked, write_checked
from kc.files import file_name, hashed_path
from kc.types import Float32Array

MAGIC = b"KCK1"


class KeyStore:
    """Keys (N, D) of one image by sample id, float32 as they were made, so that reading and making agree to the bit.

    An entry belongs to the encoder's weights, to `source`, which made the regions, and to `how` they became keys. One
    folder serves one benchmark: sample ids are unique in a benchmark only. A damaged file counts as absent.
    """

    def __init__(self, folder: Path, encoder: Encoder, source: str) -> None:
        self.folder = folder
        self.encoder = encoder
        self.source = source

    def _path(self, sample_id: str, how: str) -> Path:
        folder = self.folder / file_name(self.encoder.fingerprint) / self.source / how
        return hashed_path(folder, sample_id, ".f32")

    def read(self, sample_id: str, how: str, shape: tuple[int, int]) -> Float32Array | None:
        """The keys of `shape` (N, D), or None where there are none such."""
        body = read_checked(self._path(sample_id, how), MAGIC)
        if body is None:
            return None
        shapes, start = unpacked(body)
        if shapes != (shape,):
            return None
        return np.frombuffer(body, np.float32, offset=start).reshape(shape).copy()

    def write(self, sample_id: str, how: str, keys: Float32Array) -> None:
        """Keep the keys (N, D). Raises RunError where the folder cannot be written."""
        body = packed((keys.shape,), np.ascontiguousarray(keys, np.float32).tobytes())
        write_checked(self._path(sample_id, how), MAGIC, body)
