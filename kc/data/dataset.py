"""A benchmark split as a torch Dataset of dicts, its collation, its seeded sampling order and its memory of samples.

One item is one image with the labels that its scope may see; `kc.data.datamodule` decides which those are.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate, get_worker_info
from torch.utils.data.distributed import DistributedSampler

from kc.data.sample_cache import SampleCache
from kc.data.selection import hide, hide_panoptic
from kc.data.transforms import flip_image, flip_labels, flips, image_to_tensor, resize_labels
from kc.types import HIDDEN, REPEATED, VOID, Int32Array, Int64Array, Sample, TaskKind

Item = dict[str, Any]
Batch = dict[str, Any]
_PIECE = 1024
EpochIndex = tuple[int, int]
"""(epoch, position): the epoch travels with the index, so persistent workers augment by the right one. A position
below 0 repeats an image, see `SeededSampler`."""


@dataclass(frozen=True)
class View:
    """Which images, and which of their labels, a dataset shows.

    `indices` (n,) int64 rows of the reader; `keep_ids` the labels shown, None for all; hidden semantic labels become
    `hidden_id`; `training` gives label maps at the network's size, else at the original size.
    """

    indices: Int64Array
    keep_ids: tuple[int, ...] | None
    hidden_id: int
    training: bool


class LabelledImages(Dataset[Item]):
    """The images of a `View` as dicts; `collate_training` names the keys of a batch.

    `raw` adds the original uint8 image (and, in training, the original label maps, hidden alike, never mirrored);
    `with_images = False` leaves out the network's input, for features that are already known. Both are plain
    attributes that may be set before a loader is iterated.
    """

    def __init__(
        self,
        samples: SampleCache,
        view: View,
        *,
        kind: TaskKind,
        size: tuple[int, int],
        class_ids: Sequence[int],
        seed: int = 0,
        augment: bool = False,
        raw: bool = False,
        with_images: bool = True,
    ) -> None:
        self.samples = samples
        self.view = view
        self.kind = kind
        self.size = size
        self.class_ids = tuple(class_ids)
        self.seed = seed
        self.augment = augment
        self.raw = raw
        self.with_images = with_images

    @property
    def indices(self) -> Int64Array:
        """(n,) int64: the reader's row of each item."""
        return self.view.indices

    @property
    def sample_ids(self) -> list[str]:
        """The sample id of each item, without reading an image."""
        ids = self.samples.reader.sample_ids
        return [ids[i] for i in self.view.indices]

    @property
    def labels(self) -> Int64Array:
        """(n,) int64: the class of each item of a classification benchmark, without reading an image."""
        if self.kind != "classification":
            raise ValueError(f"a {self.kind} benchmark has no image labels")
        table = self.samples.reader.class_table[self.view.indices]
        labels: Int64Array = np.asarray(self.class_ids, dtype=np.int64)[table.argmax(axis=1)]
        return labels

    def __len__(self) -> int:
        return len(self.view.indices)

    def __getitem__(self, key: int | EpochIndex) -> Item:
        if isinstance(key, tuple):
            item = self._item(*key)
            return {**item, REPEATED: True} if key[1] < 0 else item
        return self._item(0, key)

    def _item(self, epoch: int, position: int) -> Item:
        index = int(self.view.indices[position])
        reader = self.samples.reader
        if self.kind == "classification" and not self.with_images and not self.raw:
            # Everything that is asked for stands in the index: no need to decode an image.
            label = self.class_ids[int(reader.class_table[index].argmax())]
            return {"sample_id": reader.sample_ids[index], "index": index, "label": label}
        sample = self.samples.read(index)
        height, width = sample.image.shape[:2]
        item: Item = {"sample_id": sample.id, "index": index, "original_size": (height, width)}
        mirrored = self.augment and flips(self.seed, epoch, index)
        if self.with_images:
            image = image_to_tensor(sample.image, self.size)
            item["image"] = flip_image(image) if mirrored else image
        if self.raw:
            item["raw"] = sample.image
        if self.kind == "classification":
            item["label"] = sample.label
            return item
        semantic, panoptic, crowd = self._shown(sample)
        maps: dict[str, npt.NDArray[Any]] = {"semantic": semantic}
        if panoptic is not None:
            maps["panoptic"] = panoptic
        for name, original in maps.items():
            if not self.view.training:
                item[name] = original
                continue
            resized = resize_labels(original, self.size)
            item[name] = flip_labels(resized) if mirrored else resized
            if self.raw:
                item["labels_raw" if name == "semantic" else "panoptic_raw"] = original
        if panoptic is not None:
            item["crowd"] = crowd
        return item

    def _shown(self, sample: Sample) -> tuple[Int64Array, Int32Array | None, frozenset[int]]:
        """The sample's semantic map, panoptic map and crowds, with what the view hides hidden."""
        keep = self.view.keep_ids
        if self.kind == "panoptic":
            if sample.panoptic is None:
                raise ValueError(f"sample {sample.id!r} of a panoptic benchmark has no panoptic map")
            panoptic, crowd = sample.panoptic, sample.crowd
            if keep is None and sample.semantic is not None:
                return sample.semantic, panoptic, crowd
            if keep is not None:
                panoptic, crowd = hide_panoptic(panoptic, crowd, keep)
            return panoptic[..., 0].astype(np.int64), panoptic, crowd
        if sample.semantic is None:
            raise ValueError(f"sample {sample.id!r} of a semantic benchmark has no semantic map")
        semantic = sample.semantic if keep is None else hide(sample.semantic, keep, self.view.hidden_id)
        return semantic, None, frozenset()


def hidden_label(kind: TaskKind, background_id: int | None) -> int:
    """What a hidden training label becomes: the background class, HIDDEN without one; VOID in panoptic benchmarks."""
    if kind == "panoptic":
        return VOID
    return HIDDEN if background_id is None else background_id


def collate_training(items: list[Item]) -> Batch:
    """A training batch of B items; all label maps have the network's size (h, w) and are stacked.

    "image" (B, 3, h, w) float32 RGB in [0, 1]; "index" (B,) int64, the reader's row; "sample_id" list of str;
    "original_size" list of (H, W); "label" (B,) int64 (classification); "semantic" (B, h, w) int64; "panoptic"
    (B, h, w, 2) int32; "crowd" list of frozensets of instance numbers. With `raw`, lists of numpy arrays at the
    original size: "raw" (H, W, 3) uint8, "labels_raw" (H, W) int64, "panoptic_raw" (H, W, 2) int32. Images that only
    keep several processes in step are left out; a batch of nothing else has the key REPEATED, and should weigh nothing.
    """
    items = [item for item in items if REPEATED not in item] or items
    return _batch(items, ("image", "index", "label", "semantic", "panoptic"))


def collate_evaluation(items: list[Item]) -> Batch:
    """An evaluation batch: as in training, but label maps are lists of numpy arrays at each image's original size.

    "semantic" list of (H, W) int64, "panoptic" list of (H, W, 2) int32, "raw" list of (H, W, 3) uint8.
    """
    return _batch(items, ("image", "index", "label"))


def _batch(items: list[Item], stacked: Iterable[str]) -> Batch:
    batch: Batch = {key: [item[key] for item in items] for key in items[0]}
    for key in batch.keys() & set(stacked):
        values = batch[key]
        if isinstance(values[0], Tensor):
            batch[key] = _stacked(values)
        elif isinstance(values[0], np.ndarray):
            batch[key] = _stacked([torch.from_numpy(np.ascontiguousarray(v)) for v in values])
        else:
            batch[key] = torch.tensor(values, dtype=torch.int64)
    return batch


def _stacked(values: list[Tensor]) -> Tensor:
    """(B, ...) of B tensors; in a worker of a loader, the way that brings it to the main process sooner."""
    worker = get_worker_info()
    if worker is not None and worker.num_workers < (os.cpu_count() or 1):
        # The thread that sends copies it to shared memory, on a core that is free, while the next image is decoded.
        return torch.stack(values)
    stacked: Tensor = default_collate(values)  # in a worker this stacks into shared memory: no copy, but a wait
    return stacked


class SeededSampler(Sampler[EpochIndex]):
    """The order of one epoch: a permutation drawn from (seed, task, epoch), or 0..n-1 without shuffling.

    Lightning calls `set_epoch` before each epoch; so does a hand-written loop that wants a new order. It yields
    (epoch, position), so the order and the augmentation are the same for any number of workers. `order` draws another
    kind of permutation of 0..n-1 than an even one.

    With `parts` processes each takes every `parts`-th position, so that B / parts of each make the batch of B that one
    process would see. Where n does not divide, the first positions are seen again at the end of a shuffled order, as
    position - n, to keep processes in step (`collate_training` drops them); without shuffling, parts differ by one.
    With fewer images than processes every process sees all of them then, which leaves means as they are.
    """

    def __init__(
        self,
        n: int,
        *,
        shuffle: bool,
        seed: int,
        task: int,
        part: int = 0,
        parts: int = 1,
        order: Callable[[np.random.Generator], Int64Array] | None = None,
    ) -> None:
        self.n = n
        self.part = part
        self.parts = parts
        self.shuffle = shuffle
        self.seed = seed
        self.task = task
        self.order = order
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, zero-based."""
        self.epoch = epoch

    def __len__(self) -> int:
        if not self.shuffle:
            return len(range(self.part, self.n, self.parts)) if self.n >= self.parts else self.n
        return -(-self.n // self.parts)

    def __iter__(self) -> Iterator[EpochIndex]:
        order = torch.arange(self.n)
        if self.shuffle and self.order is not None:
            order = torch.from_numpy(self.order(np.random.default_rng((self.seed, self.task, self.epoch))))
        elif self.shuffle:
            order = torch.randperm(self.n, generator=generator_of(self.seed, self.task, self.epoch))
        epoch = self.epoch
        if self.shuffle:
            again = order.repeat(self.parts)[: len(self) * self.parts - self.n] - self.n
            order = torch.cat([order, again])[self.part :: self.parts]
        elif self.n >= self.parts:
            order = order[self.part :: self.parts]
        # A piece at a time: a million positions do not become a million Python objects before the first batch.
        return ((epoch, position) for i in range(0, len(order), _PIECE) for position in order[i : i + _PIECE].tolist())


def size_in_step(n: int, parts: int, size: int) -> int:
    """The least batch size from `size` on with which parts of `n` images that differ by one have as many batches each:
    a process without a next one would have the others wait for ever."""
    while n > parts and n % parts and n // parts % size == 0:
        size += 1
    return size


class SharedSampler(SeededSampler, DistributedSampler[EpochIndex]):
    """The share of one of several processes. Its type says so to Lightning, which would share it out once more."""


def generator_of(*numbers: int) -> torch.Generator:
    """A torch generator seeded by all of the `numbers` (each >= 0) together."""
    state = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state & (2**63 - 1))


def seed_worker(worker_id: int) -> None:
    """Seed Python's and numpy's global generators of a loader worker from the seed torch gave it."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - readers of other packages draw from the global generator
