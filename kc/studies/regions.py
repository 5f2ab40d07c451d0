"""Regions of a benchmark with their keys, the base's codes and the truth; each encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from kc.config import RunConfig
from kc.data.datamodule import IncrementalDataModule
from kc.errors import KcError
from kc.files import atomic_path
from kc.methods.regions import cut_out, normalised
from kc.metrics.confusion import ConfusionMatrix
from kc.metrics.panoptic import PanopticQuality, PanopticStats, panoptic_stats
from kc.openvocab.base import CodedVocabulary
from kc.progress import track
from kc.proposals.merge import paint, semantic_to_panoptic
from kc.proposals.pooling import pool, segment_labels
from kc.resolve import resolve
from kc.session import Session, open_data
from kc.studies.base import Study
from kc.studies.options import PairOptions, RegionOptions
from kc.types import VOID, ClassInfo, Float32Array, Int64Array, Rows, Segments, SplitName


@dataclass(frozen=True)
class Regions:
    """N regions of the images of one split: `keys` (N, D), `codes` (N, E) of the base, `label` (N,) the class of most
    of each, VOID where none, `image` (N,) its image."""

    keys: Float32Array
    codes: Float32Array
    label: Int64Array
    image: Int64Array

    def of_images(self, images: Sequence[int]) -> Regions:
        """Those of some images."""
        return self.at(np.flatnonzero(np.isin(self.image, images)))

    def at(self, rows: Int64Array) -> Regions:
        """Those at `rows`."""
        return Regions(self.keys[rows], self.codes[rows], self.label[rows], self.image[rows])

    @property
    def named(self) -> Regions:
        """Those that have a class: what a memory stores."""
        return self.at(np.flatnonzero(self.label != VOID))

    def rows(self) -> Rows:
        """As rows of a memory; the sample is the image's number, the segment the region's."""
        return Rows(self.keys, self.label, tuple(map(str, self.image.tolist())), np.arange(len(self.label)))

    def __add__(self, other: Regions) -> Regions:
        """These, then those of `other`."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Regions(*(np.concatenate([mine, theirs]) for mine, theirs in pairs))


@dataclass
class Truth:
    """Segments and true maps of images."""

    segments: list[Segments] = field(default_factory=list)
    semantic: list[Int64Array] = field(default_factory=list)
    panoptic: list[Any] = field(default_factory=list)
    crowd: list[Any] = field(default_factory=list)


class Benchmark:
    """One benchmark of regions: `train` and `test` regions, the base, and scores of answers.

    Args:
        options: of the study; encoder, base and seed are taken from them.
        benchmark: name or path of a manifest.
        proposals: where its regions come from.
        limit: at most so many images a split.
    """

    def __init__(
        self, options: RegionOptions, console: Console, benchmark: str, proposals: str, limit: int | None
    ) -> None:
        run = resolve(RunConfig(
            benchmark=benchmark, data_root=options.data_root, tasks=1, methods="knn-clip", encoder=options.encoder,
            base=options.base, proposals=proposals, seed=options.seed, limit_images=limit,
        ))  # fmt: skip
        self.data: IncrementalDataModule = open_data(run)
        if self.data.manifest.task_kind == "classification":
            raise KcError(f"{benchmark} has no regions: take a semantic or panoptic benchmark")
        self.session = Session.of_data(run, self.data)
        assert self.session.regions is not None
        self.regions = self.session.regions
        if not isinstance(self.session.base, CodedVocabulary):
            raise KcError(f"the base must score stored regions, which {options.base} cannot: use --base conse")
        self.base: CodedVocabulary = self.session.base
        self.name = self.data.manifest.name
        self.classes: dict[int, ClassInfo] = self.data.classes
        self.ids = self.data.class_ids
        self.things = tuple(c.id for c in self.classes.values() if c.is_thing)
        self.panoptic = self.data.manifest.task_kind == "panoptic"
        self.metric = "pq" if self.panoptic else "miou"
        self._counted: dict[tuple[int, bytes], tuple[Int64Array, PanopticStats | None]] = {}
        self._console, self._limit = console, limit

    def fingerprints(self) -> dict[str, str]:
        """What makes the regions of this benchmark, their keys and the base's scores."""
        encoder, base = self.session.encoder.fingerprint, self.base.key
        found = {"encoder": encoder, "base": base, "proposals": self.regions.source, "keys": self.regions.keys}
        return {f"{self.name}: {what}": value for what, value in found.items()}

    @cached_property
    def train(self) -> Regions:
        """Regions of the training images."""
        return self._regions("train")

    @cached_property
    def test(self) -> Regions:
        """Regions of the test images."""
        return self._regions("test")

    def _regions(self, split: SplitName) -> Regions:
        def of(number: int, batch: dict[str, Any], row: int) -> dict[str, Any]:
            found = self.regions({name: value[row : row + 1] for name, value in batch.items()})[0]
            features = self.session.features.encode(batch["image"][row][None], [batch["sample_id"][row]])
            posterior = torch.from_numpy(pool(self.base.posterior_map(features)[0], found.segments))
            truth = np.asarray(batch["labels_raw" if "labels_raw" in batch else "semantic"][row])
            return {
                "keys": found.keys, "codes": self.base.codes_from_posterior(posterior).float().numpy(),
                "label": segment_labels(truth, found.segments), "image": np.full(len(found.keys), number, np.int64),
            }  # fmt: skip

        return Regions(**self.arrays(split, "encoding", (self.regions.keys,), "2", of))

    def arrays(
        self, split: SplitName, what: str, parts: tuple[str, ...], version: str, of: Callable[..., dict[str, Any]]
    ) -> dict[str, Any]:
        """What `of` makes of every image of a split, joined by name: from the file in the cache, else made now."""
        made_of = (self.session.encoder.fingerprint, self.base.key, self.regions.source, *parts, split)
        key = "|".join([*made_of, str(self._limit), version])
        path = self.folder / f"{hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()}.npz"
        if not path.exists():
            each = [of(*image) for image in self.images(split, what)]
            joined: dict[str, Any] = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
            with atomic_path(path, sync=False) as temporary, open(temporary, "wb") as file:
                np.savez(file, **joined)
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)

    def images(self, split: SplitName, what: str) -> Iterator[tuple[int, dict[str, Any], int]]:
        """(number of the image, its batch, its place there) of every image of a split, with progress."""
        number = 0
        loader = self.data.loader(split, 0, "all", raw=True)
        text = f"{what} {split} images of {self.name}"
        for batch in track(loader, text, self._console, "batches"):
            for row in range(len(batch["sample_id"])):
                yield number, batch, row
                number += 1

    @cached_property
    def truth(self) -> Truth:
        """True maps and segments of the test images."""
        found = Truth()
        for _, batch, row in self.images("test", "reading"):
            found.segments.append(self.regions._segments(batch, row))
            found.semantic.append(np.asarray(batch["semantic"][row], np.int64))
            if self.panoptic:
                found.panoptic.append(np.asarray(batch["panoptic"][row]))
                found.crowd.append(batch["crowd"][row])
        return found

    @property
    def folder(self) -> Path:
        """Where the studies keep what they encoded of this benchmark."""
        return self.session.features.folder.parent / "studies"

    def base_scores(self, regions: Regions) -> Tensor:
        """The base's probabilities (N, C) over all classes."""
        names = [[c.name, *c.synonyms] for c in (self.classes[i] for i in self.ids)]
        return self.base.scores_from_codes(torch.from_numpy(regions.codes), names)

    def score(self, answer: Int64Array) -> dict[str, float]:
        """`pq` (where the benchmark is panoptic), `miou`, and shares of regions that are named rightly: `accuracy`
        and its mean over classes. `answer` (N,): a class id for each region of `test`."""
        truth, regions = self.truth, self.test
        matrix = ConfusionMatrix(self.ids)
        quality = PanopticQuality(self.ids, self.things)
        for number, segments in enumerate(truth.segments):
            labels = answer[regions.image == number]
            key = (number, labels.tobytes())
            if key not in self._counted:
                self._counted[key] = self._count(number, segments, labels)
            counts, stats = self._counted[key]
            matrix.matrix += counts
            if stats is not None:
                quality.stats.add(stats)
        known = regions.label != VOID
        right, label = answer[known] == regions.label[known], regions.label[known]
        found = {"pq": quality.compute()["pq"]} if self.panoptic else {}
        found |= {"miou": matrix.compute()["miou"], "accuracy": float(right.mean())}
        return found | {"mean_class_accuracy": float(np.mean([right[label == c].mean() for c in np.unique(label)]))}

    def _count(self, number: int, segments: Segments, labels: Int64Array) -> tuple[Int64Array, PanopticStats | None]:
        truth = self.truth
        painted = paint(segments, labels)
        one = ConfusionMatrix(self.ids)
        one.update(truth.semantic[number], painted)
        if not self.panoptic:
            return one.matrix, None
        found = semantic_to_panoptic(painted, self.things)
        return one.matrix, panoptic_stats(truth.panoptic[number], found, self.ids, truth.crowd[number])


def median_cosines(regions: Regions) -> tuple[float, float]:
    """Median cosine of a region with its nearest of the same class in another image, and of another class.

    Over regions that have both; the second is returned as the first where it is higher (classes overlap entirely).
    """
    cosine = regions.keys @ regions.keys.T
    cosine[regions.image[:, None] == regions.image[None]] = -2
    same = regions.label[:, None] == regions.label[None]
    within = np.where(same, cosine, -2).max(1)
    between = np.where(same, -2, cosine).max(1)
    known = (within > -2) & (between > -2)
    if not known.any():
        return 0.9, 0.8
    inner = float(np.median(within[known]))
    return inner, min(inner, float(np.median(between[known])))


def near_keys(keys: Float32Array, cosine: float, seed: int) -> Float32Array:
    """A unit vector near each of `keys` (N, D), at this cosine (above 0), in a direction drawn evenly."""
    noise = np.random.default_rng(seed).normal(size=keys.shape)
    noise -= (noise * keys).sum(1, keepdims=True) * keys
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    cosine = min(cosine, 1.0)  # float32 unit vectors may have a product just above
    moved = cosine * keys + np.sqrt(1 - cosine**2) * noise
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)


def with_simulated(regions: Regions, n: int, seed: int) -> tuple[Regions, int]:
    """`n` rows: real ones drawn by `seed`, then simulated ones around them with their classes, each from an image of
    its own; and how many are simulated."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(regions.label))
    real = regions.at(order[:n])
    missing = n - len(real.label)
    if missing <= 0:
        return real, 0
    chosen: Int64Array = rng.integers(0, len(real.label), missing)
    inner, _ = median_cosines(real.at(np.arange(min(len(real.label), 4_000))))
    near = real.at(chosen)
    new_images = np.arange(missing) + int(regions.image.max()) + 1
    return real + Regions(near_keys(near.keys, inner, seed), near.codes, near.label, new_images), missing


Own = TypeVar("Own", bound=RegionOptions)
OfPair = TypeVar("OfPair", bound=PairOptions)


class RegionStudy(Study[Own]):
    """A study of the regions of one benchmark, a memory of them and an open-vocabulary base."""

    @cached_property
    def bench(self) -> Benchmark:
        """The benchmark, opened at first use."""
        options = self.options
        return Benchmark(options, self.console, options.benchmark, options.proposals, options.limit_images)

    @cached_property
    def base_scores(self) -> Tensor:
        """The base's probabilities (N, C) for the test regions."""
        return self.bench.base_scores(self.bench.test)

    def fingerprints(self) -> dict[str, str]:
        return self.bench.fingerprints()


class PairStudy(RegionStudy[OfPair]):
    """A study of the regions of two benchmarks. KcError where they are one."""

    def __init__(self, name: str, options: OfPair, console: Console) -> None:
        super().__init__(name, options, console)
        if options.benchmark == options.other:
            raise KcError(f"--other {options.other}: take another benchmark than --benchmark")

    @cached_property
    def other(self) -> Benchmark:
        """The second benchmark, opened at first use."""
        options = self.options
        limit = min(options.other_images, options.limit_images or options.other_images)
        return Benchmark(options, self.console, options.other, options.other_proposals, limit)

    @property
    def of(self) -> str:
        return f"{self.bench.name}-{self.other.name}"

    def fingerprints(self) -> dict[str, str]:
        return {**self.bench.fingerprints(), **self.other.fingerprints()}


NAMES = ("whole", "full", "masked")


@dataclass(frozen=True)
class Views:
    """Three views of N regions: their `whole` image, the `full` crop around them, the `masked` crop; of each the keys
    (N, D), L2-normalised pooled features, and the base's codes (N, E)."""

    keys: dict[str, Float32Array]
    codes: dict[str, Float32Array]


@torch.no_grad()
def views(bench: Benchmark, split: SplitName) -> Views:
    """Views of all regions of a split, in the order of `bench.train` or `bench.test`; encoded once, then cached."""

    def of(_: int, batch: dict[str, Any], row: int) -> dict[str, Any]:
        segments, session = bench.regions._segments(batch, row), bench.session
        crops, inside = cut_out(np.asarray(batch["raw"][row]), segments)
        pixels = torch.from_numpy(crops).float() / 255
        image = session.features.encode(batch["image"][row][None], [batch["sample_id"][row]]).pooled
        pooled = {
            "whole": image.expand(len(segments), -1),
            "full": session.encoder.encode(pixels).pooled,
            "masked": session.encoder.encode(pixels * torch.from_numpy(inside)[:, None]).pooled,
        }
        keys = {f"keys {name}": normalised(values) for name, values in pooled.items()}
        return keys | {f"codes {name}": bench.base.codes_from(x).float().numpy() for name, x in pooled.items()}

    stored = bench.arrays(split, "cropping", (), "crops-2", of)
    return Views(*({name: stored[f"{kind} {name}"] for name in NAMES} for kind in ("keys", "codes")))
