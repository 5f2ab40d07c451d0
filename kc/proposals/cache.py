"""Partitions on disk, because making superpixels costs more than reading them back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np

from kc.errors import RunError
from kc.proposals.base import Proposer, from_partition
from kc.types import Segments, UInt8Array


class PartitionCache:
    """The regions of one proposer by sample id, one .npy file of uint16 a sample; a damaged file is made again.

    One folder serves one benchmark: sample ids are unique in a benchmark only. Masks that overlap are not stored.
    """

    def __init__(self, folder: Path, proposer: Proposer) -> None:
        self.folder = folder / proposer.key
        self.proposer = proposer

    def _path(self, sample_id: str) -> Path:
        digest = hashlib.sha1(sample_id.encode(), usedforsecurity=False).hexdigest()
        return self.folder / digest[:2] / f"{digest}.npy"

    def missing(self, sample_ids: Sequence[str]) -> list[str]:
        """The ids without an entry, in order."""
        return [s for s in sample_ids if not self._path(s).is_file()]

    def propose(self, image: UInt8Array, sample_id: str) -> Segments:
        """Regions of `image` (H, W, 3) uint8 RGB, read back where they are known. Raises RunError if unwritable."""
        path = self._path(sample_id)
        try:
            stored = np.load(path, allow_pickle=False)
            if stored.shape == image.shape[:2] and stored.dtype == np.uint16:
                segments = from_partition(stored)
                if len(segments) == int(stored.max()) + 1:  # what was written had no gap in its numbers
                    return segments
        except (OSError, ValueError, EOFError):
            pass  # absent or damaged: made below
        segments = self.proposer.propose(image)
        if segments.partition is not None and len(segments) <= np.iinfo(np.uint16).max:
            self._write(path, segments)
        return segments

    def _write(self, path: Path, segments: Segments) -> None:
        assert segments.partition is not None
        temporary = path.with_name(f".{path.stem}.{uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    np.save(file, segments.partition.astype(np.uint16), allow_pickle=False)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot write proposals to {path.parent} ({error.strerror}); free space or set KC_CACHE"
            ) from error


class UnstoredPartitions(PartitionCache):
    """Regions of images that are looked at once and must leave nothing on disk."""

    def __init__(self, proposer: Proposer) -> None:
        self.proposer = proposer

    def propose(self, image: UInt8Array, sample_id: str) -> Segments:
        """Regions of `image` (H, W, 3) uint8 RGB."""
        return self.proposer.propose(image)
