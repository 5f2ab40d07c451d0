"""A memory filled in one pass: from labelled images (kNN-CLIP, arXiv 2404.09447), from unlabelled images and a list of
names (arXiv 2601.12779), and, for names that it lacks, from a second set of images. Images are never stored."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from kc.encoders.cache import FeatureCache
from kc.memory.disk import Memory
from kc.methods.regions import RegionEncoder, Regions, normalised
from kc.proposals.pooling import segment_labels
from kc.types import VOID, Batch, Float32Array, Int64Array, Rows, Segments, UInt8Array

FALLBACK = "fallback:"
"""What the source of a row begins with that was added because the memory lacked its name; the name follows."""

COMMIT_EVERY = 64
"""Images between commits: what an interruption costs."""

SEGMENTS_A_CLASS = 1 << 20
"""Segment numbers set aside for each class of one unlabelled image, so that other names do not shift them."""

KeysOf = Callable[[UInt8Array, Segments], Float32Array]
"""Keys (N, D) of given regions of an image (H, W, 3) uint8 RGB."""
Advance = Callable[[int], None]
"""Told how many images are done."""


def labelled_rows(
    batch: Batch, regions: Sequence[Regions], class_ids: Iterable[int], purity: float, source: str = ""
) -> Iterator[Rows]:
    """The regions of each image that are mostly one of `class_ids` (a share `purity` of their pixels), as rows."""
    wanted = np.fromiter(class_ids, dtype=np.int64)
    for row, r in enumerate(regions):
        labels = segment_labels(batch["labels_raw"][row], r.segments, purity)
        chosen = np.flatnonzero(np.isin(labels, wanted) & (labels != VOID))
        if len(chosen):
            samples = (batch["sample_id"][row],) * len(chosen)
            yield Rows(r.keys[chosen], labels[chosen], samples, r.segments.numbers[chosen], source)


def with_features(rows: Rows) -> Rows:
    """`rows` without those whose key is zero: where a network answers with nothing there is nothing to compare."""
    kept = np.flatnonzero(rows.keys.any(axis=1))
    samples = tuple(rows.sample_id[i] for i in kept.tolist())
    return Rows(rows.keys[kept], rows.class_id[kept], samples, rows.segment[kept], rows.source)


def add_labelled(
    memory: Memory,
    batches: Iterable[Batch],
    regions: RegionEncoder | FeatureCache,
    class_ids: Sequence[int],
    *,
    purity: float = 0.5,
    source: str = "",
    task: int = 0,
    advance: Advance = lambda n: None,
) -> int:
    """One pass over labelled `batches`; returns how many rows are new.

    Args:
        memory: open for writing, of keys as `regions` makes them.
        batches: with `raw` images and `labels_raw`; with `label` where `regions` is a FeatureCache (classification,
            an image is a row).
        class_ids: labels that become rows.
        purity: share of a region's pixels that must be one class.
        source: that of the rows.
        task: version that they are committed to.
    """
    total = 0
    with _commits(memory, task) as commit:
        for batch in batches:
            ids = tuple(batch["sample_id"])
            if isinstance(regions, FeatureCache):
                keys = normalised(regions.encode(batch["image"], ids).pooled)
                labels = np.asarray(batch["label"].cpu(), dtype=np.int64)
                found = iter([Rows(keys, labels, ids, np.zeros(len(ids), np.int64), source)])
            else:
                found = labelled_rows(batch, regions(batch), class_ids, purity, source)
            for rows in found:
                total += memory.add(with_features(rows), task)
            commit(len(ids))
            advance(len(ids))
    return total


@contextlib.contextmanager
def _commits(memory: Memory, task: int) -> Iterator[Callable[[int], None]]:
    """Commits every COMMIT_EVERY images, and what is left when all went well."""
    waiting = 0

    def done(n: int) -> None:
        nonlocal waiting
        waiting += n
        if waiting >= COMMIT_EVERY:
            memory.commit(task)
            waiting = 0

    yield done
    memory.commit(task)


@dataclass(frozen=True)
class Picture:
    """An image of no benchmark: a name that tells it apart, and (H, W, 3) uint8 RGB."""

    id: str
    image: UInt8Array


class NamedRegions(Protocol):
    """Finds what is named: `kc.proposals.grounded_sam.GroundedSam`."""

    def named(self, image: UInt8Array, names: Sequence[str]) -> tuple[Segments, Int64Array]:
        """Regions of `image`, best first, and the position (N,) of each one's name in `names`."""
        ...


def add_named(
    memory: Memory,
    pictures: Iterable[Picture],
    names: Mapping[int, str],
    proposer: NamedRegions,
    keys: KeysOf,
    *,
    source: str = "",
    task: int = 0,
    advance: Advance = lambda n: None,
) -> int:
    """What `proposer` finds of `names` (class id -> name) in unlabelled `pictures`; returns how many rows are new.

    A row is known by its picture, its class and its rank among the regions of that class.
    """
    total, class_ids = 0, np.fromiter(names, dtype=np.int64)
    with _commits(memory, task) as commit:
        for picture in pictures:
            segments, position = proposer.named(picture.image, list(names.values()))
            if len(segments):
                labels = class_ids[position]
                rank = np.array([(labels[:i] == c).sum() for i, c in enumerate(labels)], dtype=np.int64)
                made = keys(picture.image, segments)
                samples = (picture.id,) * len(labels)
                rows = Rows(made, labels, samples, labels * SEGMENTS_A_CLASS + rank, source)
                total += memory.add(with_features(rows), task)
            commit(1)
            advance(1)
    return total


class FallbackImages:
    """A second set of images, searched for one name at a time.

    Folders of classes (FOLDER/NAME/*.jpg, spaces, "_" and "-" alike, any case): each image of that folder is one region
    or, with a `proposer`, what it finds there. Images without a folder are all searched, by the `proposer`.

    Args:
        files: the image files, relative to the folder.
        read: file -> (H, W, 3) uint8 RGB.
        keys: makes keys that are comparable with the memory's.
        proposer: finds a name in an image.
        limit: images of a class folder that are read.
    """

    def __init__(
        self,
        files: Sequence[str],
        read: Callable[[str], UInt8Array],
        keys: KeysOf,
        proposer: NamedRegions | None = None,
        limit: int = 32,
    ) -> None:
        self.read = read
        self.keys = keys
        self.proposer = proposer
        self._by_name: dict[str, list[str]] = {}
        for file in sorted(files):
            folder = Path(file).parent.name
            self._by_name.setdefault(_plain(folder), []).append(file)
        self._without_name = self._by_name.pop("", [])
        self._limit = limit
        self._found: dict[str, list[tuple[str, Float32Array]]] = {}

    def found(self, name: str) -> list[tuple[str, Float32Array]]:
        """The files that show `name`, each with the keys (N, D) of its regions, best first; looked for once."""
        if name not in self._found:
            self._found[name] = list(self._search(name))
        return self._found[name]

    def _search(self, name: str) -> Iterator[tuple[str, Float32Array]]:
        for file in self._by_name.get(_plain(name), [])[: self._limit] or self._without_name:
            image = self.read(file)
            size = (image.shape[0], image.shape[1])
            if self.proposer is not None:
                segments, _ = self.proposer.named(image, [name])
            elif file in self._without_name:
                continue
            else:
                segments = Segments(size, np.ones(1, np.float32), masks=np.ones((1, *size), dtype=bool))
            if len(segments):
                keys = self.keys(image, segments)
                yield file, keys[keys.any(axis=1)]


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def add_fallback(
    memory: Memory, names: Mapping[int, str], images: FallbackImages, task: int = 0, advance: Advance = lambda n: None
) -> dict[str, int]:
    """Rows for those of `names` (class id -> name) that have no visible row; name -> how many were added (0 if none
    was found), in order. Each row's source says "fallback:NAME"."""
    added: dict[str, int] = {}
    known = set(np.unique(memory.labels().class_id).tolist())
    for class_id, name in names.items():
        if class_id not in known:
            source = FALLBACK + name
            added[name] = 0
            for file, keys in images.found(name):
                n = len(keys)
                labels, segment = np.full(n, class_id, np.int64), np.arange(n, dtype=np.int64)
                added[name] += memory.add(Rows(keys, labels, (f"{source}/{file}",) * n, segment, source), task)
            memory.commit(task)
        advance(1)
    return added
