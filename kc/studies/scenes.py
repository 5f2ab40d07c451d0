"""What the studies read: regions with their keys, what the base says of them, and the truth; each encoded once."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from kc.config import RunConfig
from kc.data.datamodule import IncrementalDataModule
from kc.errors import KcError
from kc.files import atomic_path
from kc.memory.disk import Memory
from kc.memory.vote.fusion import fuse_known_names, knn_clip, restrict_to_known, retrieval_logits
from kc.memory.vote.votes import decide
from kc.methods.retrieval.calibration import Setting
from kc.metrics.confusion import ConfusionMatrix
from kc.metrics.panoptic import PanopticQuality, PanopticStats, panoptic_stats
from kc.openvocab.base import Recallable
from kc.progress import track
from kc.proposals.merge import paint, semantic_to_panoptic
from kc.proposals.pooling import pool, segment_labels
from kc.resolve import resolve
from kc.session import Session, open_data
from kc.studies.config import StudyConfig
from kc.types import VOID, ClassInfo, Float32Array, Int64Array, Neighbours, Rows, Segments, SplitName


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


@dataclass
class Truth:
    """Segments and true maps of the images of one split."""

    segments: list[Segments] = field(default_factory=list)
    semantic: list[Int64Array] = field(default_factory=list)
    panoptic: list[Any] = field(default_factory=list)
    crowd: list[Any] = field(default_factory=list)


class Bench:
    """One benchmark as the studies see it: `train` and `test` regions, the base, and scores of answers."""

    def __init__(
        self, config: StudyConfig, console: Console, benchmark: str, proposals: str, limit: int | None = None
    ) -> None:
        limit = min([n for n in (limit, config.limit_images) if n is not None], default=None)
        run = RunConfig(
            benchmark=benchmark,
            data_root=config.data_root,
            tasks=1,
            methods="knn-clip",
            encoder=config.encoder,
            base=config.base,
            proposals=proposals,
            seed=config.seed,
            limit_images=limit,
        )
        run = resolve(run)
        self.data: IncrementalDataModule = open_data(run)
        if self.data.manifest.task_kind == "classification":
            raise KcError(f"{benchmark} has no regions: take a semantic or panoptic benchmark")
        self.shared = Session.of_data(run, self.data)
        if not isinstance(self.shared.base, Recallable):
            raise KcError(f"the studies ask a base about stored regions, which {config.base} cannot answer: use conse")
        self.base: Recallable = self.shared.base
        self.name = self.data.manifest.name
        self.classes: dict[int, ClassInfo] = self.data.classes
        self.ids = self.data.class_ids
        self.things = tuple(c.id for c in self.classes.values() if c.is_thing)
        self.panoptic = self.data.manifest.task_kind == "panoptic"
        self.metric = "pq" if self.panoptic else "miou"
        self._truth: dict[SplitName, Truth] = {}
        self._counted: dict[tuple[str, int, bytes], tuple[Int64Array, PanopticStats | None]] = {}
        self._console = console
        self.limit = limit
        self.train = self._regions("train")
        self.test = self._regions("test")

    def settings(self, config: StudyConfig) -> dict[str, Any]:
        """What makes the numbers of every study of this benchmark."""
        regions = self.shared.regions
        assert regions is not None
        return {
            "benchmark": self.name, "encoder": self.shared.encoder.fingerprint, "base": self.base.key,
            "proposals": regions.source, "keys": regions.keys, "limit_images": self.limit,
            "seed": config.seed,
        }  # fmt: skip

    # -- reading -----------------------------------------------------------------------------------------------------

    def _regions(self, split: SplitName) -> Regions:
        """From the file in the cache, else made now: no network is run twice."""
        regions, shared = self.shared.regions, self.shared
        assert regions is not None
        parts = (shared.encoder.fingerprint, self.base.key, regions.source, regions.keys, split, str(self.limit), "2")
        digest = hashlib.sha1("|".join(parts).encode(), usedforsecurity=False).hexdigest()
        path = self.folder / f"{digest}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as stored:
                return Regions(**{name: stored[name] for name in ("keys", "codes", "label", "image")})
        keys, codes, labels, image = [], [], [], []
        for number, batch, row in self.images(split, "encoding"):
            found = regions({name: _row(value, row) for name, value in batch.items()})[0]
            features = shared.features.encode(batch["image"][row][None], [batch["sample_id"][row]])
            posterior = pool(self.base.posterior_map(features)[0], found.segments)
            truth = batch["labels_raw" if "labels_raw" in batch else "semantic"][row]
            keys.append(found.keys)
            codes.append(self.base.codes_from_posterior(torch.from_numpy(posterior)).float().numpy())
            labels.append(segment_labels(np.asarray(truth), found.segments))
            image.append(np.full(len(found.keys), number, np.int64))
        made = {"keys": keys, "codes": codes, "label": labels, "image": image}
        joined: dict[str, Any] = {name: np.concatenate(values) for name, values in made.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **joined)
        return Regions(**joined)

    def images(self, split: SplitName, what: str) -> Iterator[tuple[int, dict[str, Any], int]]:
        """(number of the image, its batch, its place there) of every image of a split, with progress."""
        number = 0
        loader = self.data.loader(split, 0, "all", raw=True)
        text = f"{what} {split} images of {self.name}"
        for batch in track(loader, text, self._console, "batches"):
            for row in range(len(batch["sample_id"])):
                yield number, batch, row
                number += 1

    def truth(self, split: SplitName = "test") -> Truth:
        """True maps and segments, read when first asked for."""
        if split not in self._truth:
            found, regions = Truth(), self.shared.regions
            assert regions is not None
            for _, batch, row in self.images(split, "reading"):
                found.segments.append(regions._segments(batch, row))
                found.semantic.append(np.asarray(batch["semantic"][row], np.int64))
                if self.panoptic:
                    found.panoptic.append(np.asarray(batch["panoptic"][row]))
                    found.crowd.append(batch["crowd"][row])
            self._truth[split] = found
        return self._truth[split]

    @property
    def folder(self) -> Path:
        """Where the studies keep what they encoded of this benchmark."""
        return self.shared.features.folder.parent / "studies"

    # -- answering ---------------------------------------------------------------------------------------------------

    def says(self, regions: Regions, ids: Sequence[int] | None = None) -> Tensor:
        """The base's probabilities (N, C) over classes `ids` (all)."""
        names = [[c.name, *c.synonyms] for c in (self.classes[i] for i in (self.ids if ids is None else ids))]
        return self.base.scores_from_codes(torch.from_numpy(regions.codes), names)

    def score(self, answer: Int64Array) -> dict[str, float]:
        """`pq` (where the benchmark is panoptic), `miou`, and shares of regions that are named rightly: `accuracy`
        and its mean over classes. `answer` (N,): a class id for each region of `test`."""
        truth, regions = self.truth(), self.test
        matrix = ConfusionMatrix(self.ids)
        quality = PanopticQuality(self.ids, self.things)
        for number, segments in enumerate(truth.segments):
            labels = answer[regions.image == number]
            key = ("test", number, labels.tobytes())
            if key not in self._counted:
                self._counted[key] = self._count(number, segments, labels)
            counts, stats = self._counted[key]
            matrix.matrix += counts
            if stats is not None:
                quality.stats.add(stats)
        known = regions.label != VOID
        right, label = answer[known] == regions.label[known], regions.label[known]
        found = {"pq": quality.compute()["pq"]} if self.panoptic else {}
        return {
            **found,
            "miou": matrix.compute()["miou"],
            "accuracy": float(right.mean()),
            "mean_class_accuracy": float(np.mean([right[label == c].mean() for c in np.unique(label)])),
        }

    def _count(self, number: int, segments: Segments, labels: Int64Array) -> tuple[Int64Array, PanopticStats | None]:
        truth = self.truth()
        painted = paint(segments, labels)
        one = ConfusionMatrix(self.ids)
        one.update(truth.semantic[number], painted)
        if not self.panoptic:
            return one.matrix, None
        found = semantic_to_panoptic(painted, self.things)
        return one.matrix, panoptic_stats(truth.panoptic[number], found, self.ids, truth.crowd[number])


def _row(value: Any, row: int) -> Any:
    return value[row : row + 1]


def both(config: StudyConfig, console: Console) -> tuple[Bench, Bench]:
    """`--benchmark` and `--other`. KcError where they are one."""
    if config.benchmark == config.other:
        raise KcError(f"--other {config.other}: take another benchmark than --benchmark")
    return (
        Bench(config, console, config.benchmark, config.proposals),
        Bench(config, console, config.other, config.other_proposals, config.other_images),
    )


@contextlib.contextmanager
def remembered(regions: Regions, fingerprint: str = "study") -> Iterator[Memory]:
    """A memory of these regions, gone at the end."""
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory.create(Path(folder) / "memory", dim=regions.keys.shape[1], fingerprint=fingerprint)
        with memory:
            samples = tuple(map(str, regions.image.tolist()))
            memory.add(Rows(regions.keys, regions.label, samples, np.arange(len(regions.label))), 0)
            memory.commit(0)
            yield memory


def fused(p_base: Tensor, neighbours: Neighbours, ids: Sequence[int], known: Tensor, setting: Setting) -> Tensor:
    """kNN-CLIP's scores (Q, C), as the method gives them; `known` (C,) or (Q, C): names that the memory holds."""
    return joined(p_base, known, setting, *retrieval_logits(neighbours, ids))


def joined(p_base: Tensor, known: Tensor, setting: Setting, p_ret: Tensor, has: Tensor) -> Tensor:
    """The same from the memory's opinion P_ret (Q, C) of the queries that have one, `has` (Q,)."""
    own = p_base.to(p_ret)
    together = knn_clip(restrict_to_known(own, known), p_ret, has, setting.lam, setting.threshold)
    return torch.where(has[:, None], fuse_known_names(together, own, known), own)


def best_of(scores: Tensor, ids: Sequence[int]) -> Int64Array:
    """Class id of the best score of each row of (N, C)."""
    found: Int64Array = np.asarray(ids, np.int64)[scores.argmax(1).numpy()]
    return found


def voted(neighbours: Neighbours, ids: Sequence[int]) -> Int64Array:
    """The memory alone: the winner (Q,) of the softmax vote of `knn`."""
    answer: Int64Array = decide(neighbours, ids).numpy()
    return answer


def held(memory: Memory, ids: Sequence[int]) -> Tensor:
    """Which of the classes `ids` the memory holds, (C,) bool."""
    return torch.from_numpy(np.isin(np.asarray(ids), memory.labels().class_id))


def numbers(text: str, option: str) -> list[int]:
    """The comma-separated whole numbers above 0 of an option. KcError otherwise."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise KcError(f"--{option} {text}: expected whole numbers separated by commas") from error
    if min(values) < 1:
        raise KcError(f"--{option} {text}: every number must be above 0")
    return values
