"""Regions on disk, because making them costs more than reading them back."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np

from kc.files import hashed_path, read_checked, write_checked
from kc.proposals.base import Proposer, from_partition
from kc.proposals.filters import decode, encode
from kc.types import Segments, UInt8Array

PARTITION, MASKS = b"KCR1", b"KCM1"
"""What the two kinds of files begin with."""


class PartitionCache:
    """The regions of one proposer by sample id; a damaged file is made again.

    Each file has a checksum. A partition is an array of uint16; masks, which may overlap, are JSON of the size, the
    scores and the run lengths of each mask. One folder serves one benchmark: sample ids are unique in a benchmark only.
    """

    def __init__(self, folder: Path, proposer: Proposer) -> None:
        self.folder = folder / proposer.key
        self.proposer = proposer

    def propose(self, image: UInt8Array, sample_id: str) -> Segments:
        """Regions of `image` (H, W, 3) uint8 RGB, read back where they are known. Raises RunError if unwritable."""
        size, path = (image.shape[0], image.shape[1]), hashed_path(self.folder, sample_id, ".regions")
        known = _partition(path, size) or _masks(path, size)
        if known is not None:
            return known
        segments = self.proposer.propose(image)
        if segments.masks is not None:
            counts = [rle["counts"].decode("ascii") for rle in encode(segments.masks)]
            # A float32 survives as the decimal digits of the float64 that equals it.
            content = {"size": list(segments.size), "scores": segments.scores.tolist(), "counts": counts}
            write_checked(path, MASKS, json.dumps(content).encode("ascii"))
        elif segments.partition is not None and len(segments) <= np.iinfo(np.uint16).max:
            buffer = BytesIO()
            np.save(buffer, segments.partition.astype(np.uint16), allow_pickle=False)
            write_checked(path, PARTITION, buffer.getvalue())
        return segments


def _partition(path: Path, size: tuple[int, int]) -> Segments | None:
    """The partition in `path`, or None where there is none of an image of `size` (H, W) or the file is damaged."""
    body = read_checked(path, PARTITION)
    if body is None:
        return None
    stored = np.load(BytesIO(body), allow_pickle=False)
    if stored.shape != size or stored.dtype != np.uint16:
        return None
    segments = from_partition(stored)
    # What was written had no gap in its numbers.
    return segments if len(segments) == int(stored.max()) + 1 else None


def _masks(path: Path, size: tuple[int, int]) -> Segments | None:
    """The masks in `path`, or None where there are none of an image of `size` (H, W) or the file is damaged."""
    body = read_checked(path, MASKS)  # before anything is decoded: pycocotools trusts its run lengths
    if body is None:
        return None
    content = json.loads(body)
    if tuple(content["size"]) != size:
        return None
    rles = [{"size": content["size"], "counts": text.encode("ascii")} for text in content["counts"]]
    return Segments(size, np.array(content["scores"], dtype=np.float32), masks=decode(rles, size))


class UncachedPartitions(PartitionCache):
    """Regions of images that are looked at once and must leave nothing on disk."""

    def __init__(self, proposer: Proposer) -> None:
        self.proposer = proposer

    def propose(self, image: UInt8Array, sample_id: str) -> Segments:
        return self.proposer.propose(image)
