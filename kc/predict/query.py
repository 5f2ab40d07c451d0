"""An image that a memory is searched for: its key, or that of one of its regions, and what the memory knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kc.data.manifest import load_manifest
from kc.data.readers.files import read_image
from kc.errors import KcError
from kc.memory.disk import Memory
from kc.memory.vote.background import Background, nearest
from kc.predict.sources import Sources
from kc.session import Facts, Session, config_of_memory
from kc.types import VOID, BoolArray, Float32Array, Int64Array, Neighbours, Sample, Segments, UInt8Array

SAME = 0.999
"""Cosine from which on a region of a stored image counts as the one that was stored: features are kept as float16."""


@dataclass(frozen=True)
class Query:
    """An image that is searched for: its pixels, its key (1, D), its true class where known, its stored rows (N,)."""

    image: UInt8Array
    key: Float32Array
    label: int | None
    own: Int64Array
    mask: BoolArray | None = None
    session: Session | None = None
    """The pixels (H, W) of the region and what makes regions, in a memory of regions."""


def read_query(
    memory: Memory, image: str, point: str | None = None, benchmark: str | None = None, data_root: Path | None = None
) -> tuple[Sources, Query]:
    """Read `image`, a file or a sample of the memory's benchmark, and encode it as the memory's keys were made.

    `point`: see `chosen_region`; `benchmark`: another one, whose samples are meant. Raises KcError for an image that
    there is not, DataError for a file that is no image, FingerprintError where the memory's keys are of other weights.
    """
    info = memory.info
    if point is not None and info.kind == "classification":
        raise KcError(f"--point {point}: {memory.path} holds keys of whole images")
    sources, place = Sources(), benchmark or info.benchmark
    if place:
        manifest = load_manifest(place)
        sources, place = Sources.open(manifest, data_root), manifest.name
    path = Path(image).expanduser().absolute()
    sample = None if path.is_file() else sources.sample(image)
    if sample is None and not path.is_file():
        example = next((f", such as {reader.sample_ids[0]}" for reader in sources.readers[::-1]), "")
        raise KcError(f"{image}: neither a file nor a sample of {place or 'a benchmark'}{example}")
    pixels = read_image(path.parent, path.name) if sample is None else sample.image
    session = Session.open(config_of_memory(info), Facts.of_memory(info))
    own = np.zeros(0, np.int64) if sample is None else memory.ids(sample_id=sample.id)
    keys, segments = session.keys_of(pixels, sample=sample)
    if memory.fingerprint != session.fingerprint:
        memory.search(keys[:1], 1, fingerprint=session.fingerprint)  # says which two do not fit
    if segments is None:
        return sources, Query(pixels, keys, None if sample is None else sample.label, own)
    number = chosen_region(segments, point)
    mask, key = mask_of(segments, number), keys[number : number + 1]
    # Of the image's rows only that of this very region is its own; the others vote.
    near = memory.keys(own) @ key[0] if len(own) else np.zeros(0)
    own = own[[near.argmax()]] if len(own) and near.max() >= SAME else own[:0]
    return sources, Query(pixels, key, label_of(sample, mask), own, mask, session)


def background_of(memory: Memory) -> Background:
    """How its rows of the background class are taken, as the memory says."""
    method = memory.info.method or "knn"
    return Background(config_of_memory(memory.info).of(method).get("background", "keep"))


def search(memory: Memory, query: Query, k: int, at: int | None, background: Background | None = None) -> Neighbours:
    """The k nearest rows (1, k) of an image, its own row left out; those of its background as `background` says."""
    own = query.own[:1] if len(query.own) else np.array([-1], np.int64)
    return nearest((background or Background("keep")).search(memory, query.key, k, None, at, own), k)


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


def stored_mask(session: Session, sample: Sample, memory: Memory, row: int) -> BoolArray | None:
    """The region (H, W) of `sample` that row `row` was made of, found by its key; None where none has that key.

    By key, not by number: true segments are numbered among what could be seen at the time.
    """
    keys, segments = session.keys_of(sample.image, sample=sample)
    near = keys @ memory.keys([row])[0]
    known = segments is not None and len(near) and near.max() >= SAME
    return mask_of(segments, int(near.argmax())) if segments is not None and known else None
