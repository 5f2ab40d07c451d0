"""Keys of a benchmark under one encoder (images, true segments, or every position of a feature map), and what studies
of a memory of them share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from kc.config import RunConfig
from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.base import Reader
from kc.data.readers.open import open_reader
from kc.data.transforms import image_to_tensor
from kc.encoders.base import dense
from kc.encoders.load import check_encoder_name
from kc.errors import KcError, unknown_name
from kc.files import temporary_folder
from kc.memory.disk import Memory
from kc.memory.search.planner import SearchOptions
from kc.methods.regions import normalised
from kc.progress import Plain, track
from kc.proposals.oracle import propose_from
from kc.proposals.pooling import pool
from kc.session import Facts, Session, cache_of
from kc.studies.base import Options, Study, whole_numbers
from kc.studies.options import KeyOptions, VoteOptions
from kc.types import VOID, BoolArray, Float32Array, Int64Array, Neighbours, Rows, Sample, Segments, SplitName

ROWS = ("images", "segments", "cells")
BATCH = 16
EXACTLY = SearchOptions(index="exact")
"""An index of 200,000 rows and more finds 99 % of the nearest: results of a study must not depend on which."""
Change = Callable[[Tensor, str], Tensor]
"""(image (3, H, W) in [0, 1], sample id) -> the image that is encoded."""


@dataclass(frozen=True)
class Keys:
    """N rows: `key` (N, D) float32 of unit norm, `label` (N,) int64, `sample_id` (N) and `segment` (N,) int64."""

    key: Float32Array
    label: Int64Array
    sample_id: tuple[str, ...]
    segment: Int64Array

    def __len__(self) -> int:
        return len(self.label)

    def take(self, chosen: Int64Array | BoolArray) -> Keys:
        """The rows at positions (M,) int64, or where a mask (N,) is set."""
        at = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Keys(self.key[at], self.label[at], tuple(self.sample_id[i] for i in at), self.segment[at])

    def rows(self) -> Rows:
        """As rows of a memory."""
        return Rows(self.key, self.label, self.sample_id, self.segment)


class Source:
    """A benchmark as keys: what is encoded once stays in the cache of features that `kc run` shares.

    Raises KcError for `rows` that the benchmark cannot give, otherwise what the readers raise.
    """

    def __init__(
        self, benchmark: str, data_root: Path | None = None, rows: str | None = None, limit_images: int | None = None,
        dim: int = 64, console: Console | None = None,
    ) -> None:  # fmt: skip
        self.manifest: Manifest = load_manifest(benchmark)
        whole = self.manifest.task_kind == "classification"
        if rows is not None and rows not in ROWS:
            raise unknown_name("kind of rows", rows, ROWS)
        self.kind = rows or ("images" if whole else "segments")
        if whole != (self.kind == "images"):
            raise KcError(f"--rows {self.kind}: {self.manifest.name} is {self.manifest.task_kind}")
        self.data_root, self.limit, self.dim = data_root, limit_images, dim
        self.console = console or Plain()
        self.names = {c.id: c.name for c in self.manifest.info}
        self._readers: dict[str, Reader] = {}
        self._sessions: dict[str, Session] = {}
        self._keys: dict[tuple[str, str], Keys] = {}

    def reader(self, split: SplitName) -> Reader:
        """The images of a split."""
        if split not in self._readers:
            self._readers[split] = open_reader(self.manifest, split, self.data_root, self.limit)
        return self._readers[split]

    def session(self, encoder: str) -> Session:
        """An encoder and its cached features of this benchmark's images, opened once."""
        if encoder not in self._sessions:
            config = RunConfig(methods="knn", encoder=encoder, proposals="oracle", keys="pooled")
            place = cache_of(self.manifest, self.data_root)
            self._sessions[encoder] = Session.open(config, Facts.of(self.manifest), place)
        return self._sessions[encoder]

    def keys(self, encoder: str, split: SplitName, change: Change | None = None, tag: str = "") -> Keys:
        """Keys of every row of a split; `change` alters the images that are encoded, `tag` names that change."""
        if (change is None) != (tag == ""):
            raise ValueError("a change of the images needs a tag that names it in the cache, and only then")
        known = (f"{encoder} {tag}", split)
        if known in self._keys:
            return self._keys[known]
        session, reader = self.session(encoder), self.reader(split)
        features, (height, width) = session.features, session.facts.input_size
        parts: list[Keys] = []
        starts = range(0, len(reader), BATCH)
        for start in track(starts, f"{encoder}, {split} {tag}".strip(), self.console, "batches"):
            # Images of a classification benchmark need no second look once their features are known.
            ids = reader.sample_ids[start : start + BATCH]
            names = [f"{s}|{tag}" if tag else s for s in ids]
            samples = [reader.read(i) for i in range(start, start + len(ids))]
            found = features.get(names, (height, width))
            if found is None:
                images = [image_to_tensor(s.image, (height, width)) for s in samples]
                if change is not None:
                    images = [change(x, s.id) for x, s in zip(images, samples, strict=True)]
                found = features.encode(torch.stack(images), names)
            if self.kind == "images":
                labels = np.array([s.label for s in samples], np.int64)
                parts.append(Keys(normalised(found.pooled), labels, tuple(ids), np.zeros(len(ids), np.int64)))
                continue
            maps = dense(found, session.encoder.strides[0]).cpu()
            parts += [self._of_map(x, s) for x, s in zip(maps, samples, strict=True)]
        self._keys[known] = concatenate(parts)
        return self._keys[known]

    def _of_map(self, features: Tensor, sample: Sample) -> Keys:
        if self.kind == "cells":
            keys, labels = cells(features, sample, self.dim)
        else:
            segments, labels = truth(sample)
            keys = pool(features, segments)
        some = np.linalg.norm(keys, axis=1) > 0
        return Keys(keys[some], labels[some], (sample.id,) * int(some.sum()), np.flatnonzero(some).astype(np.int64))


def truth(sample: Sample) -> tuple[Segments, Int64Array]:
    """The true segments of a sample of a segmentation benchmark and their classes, crowds left out."""
    target = sample.panoptic if sample.panoptic is not None else sample.semantic
    assert target is not None
    segments, labels = propose_from(target)
    if not sample.crowd or sample.panoptic is None:
        return segments, labels
    assert segments.masks is not None
    instance = sample.panoptic[..., 1]
    keep = np.array([int(np.median(instance[m])) not in sample.crowd for m in segments.masks], bool)
    return replace(segments, scores=segments.scores[keep], masks=segments.masks[keep]), labels[keep]


def cells(features: Tensor, sample: Sample, dim: int) -> tuple[Float32Array, Int64Array]:
    """Every position of a map (D, h, w) whose centre pixel is labelled: unit keys (N, dim), classes (N,)."""
    assert sample.semantic is not None
    depth, height, width = features.shape
    rows = ((np.arange(height) + 0.5) * sample.semantic.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * sample.semantic.shape[1] / width).astype(np.int64)
    labels = sample.semantic[rows[:, None], columns[None, :]].ravel().astype(np.int64)
    flat = features.flatten(1).T
    if dim < depth:
        flat = flat @ gaussian(depth, dim, seed=0)
    keys = F.normalize(flat, dim=1).numpy()
    return np.ascontiguousarray(keys[labels != VOID]), labels[labels != VOID]


def gaussian(depth: int, dim: int, seed: int) -> Tensor:
    """(depth, dim) float32 of a random projection that keeps lengths in the mean."""
    return torch.randn(depth, dim, generator=torch.Generator().manual_seed(seed)).div(dim**0.5)


def concatenate(parts: Sequence[Keys]) -> Keys:
    """Several tables of rows as one. KcError if there is none."""
    if not parts:
        raise KcError("there is no image to encode")
    key, label, segment = (np.concatenate(x) for x in zip(*((p.key, p.label, p.segment) for p in parts), strict=True))
    return Keys(key, label, tuple(name for p in parts for name in p.sample_id), segment)


@contextlib.contextmanager
def memory_of(rows: Rows) -> Iterator[Memory]:
    """A memory of these rows that is gone afterwards; row i has id i. It is searched exactly, whatever its size."""
    with temporary_folder() as folder:
        memory = Memory.create(folder / "memory", dim=rows.keys.shape[1], fingerprint="study")
        with memory:
            memory.add(rows, 0)
            memory.commit(0)
            memory.configure(EXACTLY)
            yield memory


NOT_IN_MEMORY = -1
"""Label of a query whose class the memory's benchmark does not have."""


class VoteStudy(Study[Options]):
    """A study of a memory of the training rows of one benchmark, and queries from its test rows.

    With `--queries`, the test rows are those of another benchmark, under the classes of the first; both keep the
    classes that both have, as the owners of ImageNet-A and -R evaluate. KcError where the two share no class.

    `ks`, `seeds`: as given; `encoders`: their names; `source`: the benchmark; `queries`: the other one, if any.
    """

    N_ENCODERS = 1
    """Encoders that are needed at least."""

    def __init__(self, name: str, options: Options, console: Console) -> None:
        super().__init__(name, options, console)
        votes = options if isinstance(options, VoteOptions) else VoteOptions()
        self.ks = whole_numbers("k", votes.k)
        self.votes: dict[str, Any] = {"tau": votes.tau, "rank_offset": votes.rank_offset, "sharpness": votes.sharpness}
        self.seeds = whole_numbers("seeds", getattr(options, "seeds", "0"), 0)
        self.encoders = tuple(part.strip() for part in options.encoder.split(",") if part.strip())
        for encoder in self.encoders:
            check_encoder_name(encoder)
        if len(self.encoders) < self.N_ENCODERS:
            raise KcError(f"--encoder {options.encoder}: {name} needs {self.N_ENCODERS}")
        self.source = self._open(options.benchmark)
        self.queries = self._open(options.queries) if isinstance(options, KeyOptions) and options.queries else None
        if self.queries and self.queries.kind != self.source.kind:
            theirs, ours = (f"{s.manifest.name} has {s.kind}" for s in (self.queries, self.source))
            raise KcError(f"--queries: both benchmarks need the same kind of rows; {theirs}, {ours}")
        self._clamped = False

    def _open(self, benchmark: str) -> Source:
        options = self.options
        rows, dim = (options.rows, options.dim) if isinstance(options, KeyOptions) else (None, 64)
        return Source(benchmark, options.data_root, rows, options.limit_images, dim, self.console)

    @property
    def of(self) -> str:
        return "-".join(s.manifest.name for s in (self.source, self.queries) if s)

    def fingerprints(self) -> dict[str, str]:
        return {f"encoder {name}": self.source.session(name).encoder.fingerprint for name in self.encoders}

    @property
    def k(self) -> int:
        """The number of neighbours where one is enough."""
        return self.ks[0]

    @cached_property
    def same(self) -> dict[int, int]:
        """Class id in `--queries` -> id of the same class in the memory's benchmark. KcError if there is none."""
        assert self.queries is not None
        theirs, ours = self.queries.manifest, self.source.manifest
        if found := shared_classes(theirs, ours):
            return found
        raise KcError(f"--queries: {theirs.name} shares no class with {ours.name}")

    def keys(self, encoder: str, split: SplitName, change: Change | None = None, tag: str = "") -> Keys:
        """Keys of the rows of a split, of "test" those of `--queries`; see `Source.keys`."""
        if self.queries is None:
            return self.source.keys(encoder, split, change, tag)
        same = self.same  # before anything is encoded: benchmarks without a common class are refused here
        if split != "test":
            found = self.source.keys(encoder, split, change, tag)
            return found.take(np.isin(found.label, list(same.values())))
        theirs = self.queries.keys(encoder, split, change, tag)
        found = replace(theirs, label=renamed(theirs.label, same))
        return found.take(found.label != NOT_IN_MEMORY)

    def both(self, encoder: str | None = None) -> tuple[Keys, Keys]:
        """Keys of the training and of the test rows, under the first encoder if none is named."""
        name = encoder or self.encoders[0]
        return self.keys(name, "train"), self.keys(name, "test")

    def clamp(self, k: int, n_rows: int) -> int:
        """At most the rows that there are; a k that is larger is reported once."""
        if k > n_rows and not self._clamped:
            self.console.print(f"k {k} is clamped to the {n_rows} rows that there are", highlight=False)
            self._clamped = True
        return min(k, n_rows)

    def answers(self, train: Keys, queries: Float32Array, k: int) -> Neighbours:
        """The k nearest rows of each query, exactly; see `clamp`."""
        with memory_of(train.rows()) as memory:
            return memory.search(queries, self.clamp(k, len(train)))


def shared_classes(queries: Manifest, memory: Manifest) -> dict[int, int]:
    """Class id in `queries` -> id of the same class in `memory`: of the same name in the files, else the same name.

    ImageNet's classes are its WordNet ids; the folders of ImageNet-V2 are numbers, and its classes known by name.
    """
    by_name = {c.name: c.id for c in memory.classes}
    by_file = dict(zip(memory.names_in_files(), memory.class_ids(), strict=True))
    found = {
        c.id: by_file.get(name, by_name.get(c.name, NOT_IN_MEMORY))
        for c, name in zip(queries.classes, queries.names_in_files(), strict=True)
    }
    return {theirs: ours for theirs, ours in found.items() if ours != NOT_IN_MEMORY}


def renamed(label: Int64Array, same: dict[int, int]) -> Int64Array:
    """Labels (N,) under the ids of `same`; NOT_IN_MEMORY for classes that it does not hold."""
    classes, at = np.unique(label, return_inverse=True)
    return np.array([same.get(int(c), NOT_IN_MEMORY) for c in classes], np.int64)[at]
