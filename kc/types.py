"""Frozen dataclasses that cross rooms. No torch import at run time: this module loads in milliseconds.

Conventions used everywhere:
- class ids are the global ids of the manifest, 0 and above; pixels that do not count are `VOID`, which is no class id:
  negative in memory, the largest value of the type in PNGs (`kc.label_png`);
- images are RGB; masks are indexed (row, column);
- a panoptic map is (H, W, 2) int32: [..., 0] the class id (`VOID` where unlabelled), [..., 1] the instance number
  (0 for stuff and void, 1, 2, ... for things, unique in the image).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

VOID = -1
HIDDEN = -2
"""Training label of a pixel whose class the current task may not see, in benchmarks without a background class."""

TaskKind = Literal["classification", "semantic", "panoptic"]
Fitted = Literal["discriminant", "log-linear"]
"""Votes of a memory that are fitted on its rows (`kc.memory.vote.log_linear`)."""
Setting = Literal["overlapped", "disjoint", "sequential", "partition"]
SplitName = Literal["train", "val", "test"]
StreamKind = Literal["class", "task", "domain", "online", "blurry", "long-tailed", "names"]
EvaluatedOn = Literal["seen", "task", "domain"]
"""What a method is evaluated on: all classes seen at once, each task's own classes, or all classes in each domain."""

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

Batch = Mapping[str, Any]
"""A batch of a loader; `kc.data.dataset.collate_training` and `collate_evaluation` name its keys and shapes."""
REPEATED = "repeated"
"""Key of items, and of batches of nothing else, that another process sees too: `kc.data.dataset.SeededSampler`."""


@dataclass(frozen=True)
class ClassInfo:
    """One class of a benchmark."""

    id: int
    name: str
    synonyms: tuple[str, ...] = ()
    is_thing: bool = False
    color: tuple[int, int, int] = (0, 0, 0)
    background: bool = False
    """True for the one class that hidden labels turn into and that belongs to every task (VOC's background)."""


@dataclass(frozen=True)
class Sample:
    """One labelled image at its original resolution.

    `image` (H, W, 3) uint8 RGB. Exactly what the benchmark's kind has is set: `label` (classification),
    `semantic` (H, W) int64 of class ids and VOID, `panoptic` (H, W, 2) int32 (then `semantic` is its first channel).
    `crowd`: instance numbers whose segments are crowds (ignored when matching).
    """

    id: str
    image: UInt8Array
    label: int | None = None
    semantic: Int64Array | None = None
    panoptic: Int32Array | None = None
    crowd: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Task:
    """One step of the stream. `index` is zero-based; `class_ids` are new here; `seen_ids` includes them.

    In a domain-incremental stream every task has all classes. `returning_ids`: classes of other tasks of which a
    blurry stream shows images here, with their labels; those of later tasks are among the `seen_ids` too.
    """

    index: int
    class_ids: tuple[int, ...]
    seen_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    returning_ids: tuple[int, ...] = ()

    @property
    def old_ids(self) -> tuple[int, ...]:
        """Classes seen before this task."""
        new = set(self.class_ids)
        return tuple(c for c in self.seen_ids if c not in new)


@dataclass(frozen=True)
class Segments:
    """Class-agnostic regions of one image.

    Either `partition` (H, W) int32 with values 0..N-1 (every pixel in exactly one region, as superpixels give),
    or `masks` (N, H, W) bool (may overlap, may leave pixels uncovered). `scores` (N,) in [0, 1]. `number` (N,) int64:
    what a memory knows each region by, the same whenever the image comes back; None: its position.
    """

    size: tuple[int, int]
    scores: Float32Array
    partition: Int32Array | None = None
    masks: BoolArray | None = None
    number: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def numbers(self) -> Int64Array:
        """(N,) `number` of every region."""
        return np.arange(len(self), dtype=np.int64) if self.number is None else self.number


@dataclass(frozen=True)
class Features:
    """What a frozen encoder says of a batch of N images.

    `pooled` (N, D) float, not normalised. `levels`: dense maps, finest first, each (N, C_l, h_l, w_l), raw.
    `strides`: their strides in input pixels.
    """

    pooled: Tensor
    levels: tuple[Tensor, ...] = ()
    strides: tuple[int, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Rows to be stored. `keys` (N, D) float32, L2-normalised by the caller; `class_id` (N,) int64.

    (`sample_id`, `segment`) together with the encoder's fingerprint is the idempotency key of a row.
    """

    keys: Float32Array
    class_id: Int64Array
    sample_id: tuple[str, ...]
    segment: Int64Array
    source: str = ""
    weight: Float32Array | None = None

    def __len__(self) -> int:
        return len(self.class_id)


@dataclass(frozen=True)
class Neighbours:
    """The k nearest rows of Q queries, nearest first; ties by lowest id. k is clamped to the rows visible.

    `id`, `class_id`, `task` (Q, k) int64; `score` (Q, k) float32 cosine in [-1, 1]; `weight` (Q, k) float32.
    """

    id: Int64Array
    score: Float32Array
    class_id: Int64Array
    weight: Float32Array
    task: Int64Array

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True)
class Instances:
    """Scored instances of one image, best first; masks may overlap.

    `masks` (n, H, W) bool at the image's original size, `class_ids` (n,) int64, `scores` (n,) float32 in [0, 1].
    """

    masks: BoolArray
    class_ids: Int64Array
    scores: Float32Array


@dataclass(frozen=True)
class Prediction:
    """A method's answer for one batch over `vocabulary` (class ids, in the order of the score columns).

    Classification: `scores` (B, C) float, higher is better. Semantic: `semantic`, one (H, W) int64 map of class ids
    an image at its original size. Panoptic: `panoptic`, one (H, W, 2) int32 map an image, and `semantic` beside it;
    `instances` beside them, one entry an image, from methods that score instances.
    """

    vocabulary: tuple[int, ...]
    scores: Tensor | None = None
    semantic: list[Int64Array] = field(default_factory=list)
    panoptic: list[Int32Array] = field(default_factory=list)
    instances: list[Instances] = field(default_factory=list)
