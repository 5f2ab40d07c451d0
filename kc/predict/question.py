"""An image that a memory is asked about: its key, or that of one of its regions, and what the memory knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.base import Reader, read_image
from kc.data.readers.open import open_reader
from kc.data.transforms import image_to_tensor
from kc.encoders.base import Encoder, dense
from kc.encoders.load import load_encoder
from kc.errors import DataError, KcError
from kc.memory.disk import Memory
from kc.methods.regions import Regions, masked_keys, normalised
from kc.proposals.base import Proposer
from kc.proposals.load import load_proposer
from kc.proposals.oracle import partition_from
from kc.proposals.pooling import pool
from kc.types import VOID, BoolArray, Float32Array, Int64Array, Neighbours, Sample, Segments, UInt8Array

SAME = 0.999
"""Cosine from which on a region of a stored image counts as the one that was stored: features are kept as float16."""


@dataclass(frozen=True)
class Sources:
    """The readers of a benchmark's splits, as far as its data is there; `missing` says why it is not."""

    readers: tuple[Reader, ...]
    missing: str = ""

    @classmethod
    def open(cls, manifest: Manifest, data_root: Path | None) -> Sources:
        """Every split whose data is present."""
        found, missing = [], ""
        for split in manifest.splits:
            try:
                found.append(open_reader(manifest, split, data_root))
            except DataError as error:
                missing = str(error)
        return cls(tuple(found), missing)

    def sample(self, sample_id: str) -> Sample | None:
        """The sample of this name, None where there is none."""
        for reader in self.readers:
            if sample_id in reader.sample_ids:
                return reader.read(reader.sample_ids.index(sample_id))
        return None


@dataclass(frozen=True)
class Question:
    """An image that is asked about: its picture, its key (1, D), its true class where known, its stored rows (N,)."""

    image: UInt8Array
    key: Float32Array
    label: int | None
    own: Int64Array
    mask: BoolArray | None = None
    regions: RegionQuery | None = None
    """The pixels (H, W) that are asked about and what makes regions, in a memory of regions."""


@dataclass(frozen=True)
class RegionQuery:
    """How a memory's keys of regions are made: encoder, proposals (`oracle` or a proposer), keys, input size (H, W)."""

    encoder: Encoder
    proposals: str
    keys: str
    size: tuple[int, int]

    @classmethod
    def of(cls, memory: Memory, manifest: Manifest, encoder: Encoder, settings: dict[str, Any]) -> RegionQuery:
        """As the run's settings or the benchmark say; KcError where that is not what made the memory."""
        recommended = manifest.recommended
        proposals = settings.get("proposals") or recommended.proposals or "superpixels"
        height, width = manifest.input_size
        keys = settings.get("keys") or recommended.keys or "pooled"
        query = cls(encoder, proposals, keys, (height, width))
        if memory.fingerprint != query.fingerprint:
            raise KcError(
                f"{memory.path} holds keys of regions made by {memory.fingerprint!r}, but these settings make "
                f"{query.fingerprint!r}: give --run, or the benchmark and encoder of the run that made it"
            )
        return query

    @cached_property
    def proposer(self) -> Proposer | None:
        """Makes the regions; None for true segments."""
        return None if self.proposals == "oracle" else load_proposer(self.proposals)

    @property
    def fingerprint(self) -> str:
        """As memories of regions name it."""
        source = "oracle" if self.proposer is None else self.proposer.key
        return f"{self.encoder.fingerprint}+{source}+{self.keys}"

    @torch.no_grad()
    def __call__(self, image: UInt8Array, sample: Sample | None) -> Regions:
        """The regions of an image (H, W, 3) uint8 and their keys. KcError for true segments of an unlabelled image."""
        segments = self._segments(image, sample)
        if self.keys == "masked":
            return Regions(segments, masked_keys(self.encoder, image, segments, torch.device("cpu")))
        features = self.encoder.encode(image_to_tensor(image, self.size)[None])
        return Regions(segments, pool(dense(features, self.encoder.strides[0])[0], segments))

    def _segments(self, image: UInt8Array, sample: Sample | None) -> Segments:
        if self.proposer is not None:
            return self.proposer.propose(image)
        target = None if sample is None else (sample.panoptic if sample.panoptic is not None else sample.semantic)
        if target is None:
            raise KcError("the memory's regions are true segments, and this image has no labels: give a sample")
        return partition_from(target)


def ask(memory: Memory, settings: dict[str, Any]) -> tuple[Sources, Question]:
    """Read and encode the image that `settings` name, as a run with these settings does.

    `settings`: image, benchmark, encoder, data_root. Raises KcError where one is missing, DataError for a file that is
    no image, FingerprintError for another encoder.
    """
    for name in ("benchmark", "encoder"):
        if settings.get(name) is None:
            raise KcError(f"{memory.path} lies in no run that says its {name}: give --{name}")
    point = settings.get("point")
    if point is not None and "+" not in memory.fingerprint:
        raise KcError(f"--point {point}: {memory.path} holds keys of whole images")
    manifest = load_manifest(settings["benchmark"])
    root = settings.get("data_root")
    sources = Sources.open(manifest, None if root is None else Path(root))
    path = Path(settings["image"]).expanduser().absolute()
    sample = None if path.is_file() else sources.sample(settings["image"])
    if sample is None and not path.is_file():
        example = next((f", such as {reader.sample_ids[0]}" for reader in sources.readers[::-1]), "")
        raise KcError(f"{settings['image']}: neither a file nor a sample of {manifest.name}{example}")
    image = read_image(path.parent, path.name) if sample is None else sample.image
    encoder = load_encoder(settings["encoder"])
    own = np.zeros(0, np.int64) if sample is None else memory.ids(sample_id=sample.id)
    if "+" in memory.fingerprint:
        query = RegionQuery.of(memory, manifest, encoder, settings)
        regions = query(image, sample)
        number = chosen_region(regions.segments, point)
        mask, key = mask_of(regions.segments, number), regions.keys[number : number + 1]
        # Of the image's rows only that of this very region is its own; the others vote.
        near = memory.keys(own) @ key[0] if len(own) else np.zeros(0)
        own = own[[near.argmax()]] if len(own) and near.max() >= SAME else own[:0]
        return sources, Question(image, key, label_of(sample, mask), own, mask, query)
    height, width = manifest.input_size
    with torch.no_grad():
        key = normalised(encoder.eval()(image_to_tensor(image, (height, width))[None]).pooled)
    if memory.fingerprint != encoder.fingerprint:
        memory.search(key, 1, fingerprint=encoder.fingerprint)  # says which two do not fit
    return sources, Question(image, key, None if sample is None else sample.label, own)


def search(memory: Memory, asked: Question, k: int, at: int | None) -> Neighbours:
    """The k nearest rows (1, k) of an image, its own row left out."""
    own = asked.own[:1] if len(asked.own) else np.array([-1], np.int64)
    return memory.search(asked.key, k, at=at, exclude_ids=own)


def mask_of(segments: Segments, number: int) -> BoolArray:
    """(H, W) bool: the pixels of one region."""
    if segments.partition is not None:
        inside: BoolArray = segments.partition == number
        return inside
    assert segments.masks is not None
    chosen: BoolArray = segments.masks[number]
    return chosen


def chosen_region(segments: Segments, point: str | None) -> int:
    """The region at `point` (ROW,COLUMN in pixels; of several the smallest), or the largest. KcError where none is."""
    areas = np.array([int(mask_of(segments, i).sum()) for i in range(len(segments))], np.int64)
    if len(areas) == 0:
        raise KcError("there is no region in this image")
    if point is None:
        return int(areas.argmax())
    parts = point.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise KcError(f"--point {point}: expected ROW,COLUMN in pixels")
    row, column = (int(part) for part in parts)
    height, width = segments.size
    if row >= height or column >= width:
        raise KcError(f"--point {point}: the image has {height} rows and {width} columns")
    here = [i for i in range(len(segments)) if mask_of(segments, i)[row, column]]
    if not here:
        raise KcError(f"--point {point}: no region covers that pixel")
    return min(here, key=lambda i: areas[i])


def label_of(sample: Sample | None, mask: BoolArray) -> int | None:
    """The class that most labelled pixels of a region (H, W) have; None where none is labelled."""
    if sample is None or sample.semantic is None:
        return None
    inside = sample.semantic[mask & (sample.semantic != VOID)]
    return int(np.bincount(inside).argmax()) if len(inside) else None


def stored_mask(query: RegionQuery, sample: Sample, memory: Memory, row: int) -> BoolArray | None:
    """The region (H, W) of `sample` that row `row` was made of, found by its key; None where none has that key.

    By key, not by number: true segments are numbered among what could be seen at the time.
    """
    regions = query(sample.image, sample)
    near = regions.keys @ memory.keys([row])[0]
    return mask_of(regions.segments, int(near.argmax())) if len(near) and near.max() >= SAME else None
