"""IncrementalDataModule: a benchmark as a stream of tasks, in the form any LightningModule can be trained on.

    data = IncrementalDataModule("camvid", split="6-1", data_root="data")
    for task in data.tasks:
        trainer.fit(module, data.task(task.index))

Batches are plain dicts; `kc.data.dataset.collate_training` and `collate_evaluation` name their keys and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from kc.budget import SAMPLES, cache_bytes
from kc.data.bad_files import open_good
from kc.data.dataset import (
    Item,
    LabelledImages,
    SeededSampler,
    View,
    collate_evaluation,
    collate_training,
    generator_of,
    hidden_label,
    seed_worker,
)
from kc.data.domains import DomainReader
from kc.data.lists import find, load_image_lists
from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.base import Reader
from kc.data.sample_cache import SampleCache, sample_budget
from kc.data.selection import (
    SETTINGS,
    BitTable,
    ClassTable,
    images_with,
    leaked,
    long_tailed,
    samples_of_task,
    visible_ids,
)
from kc.data.shards.order import stream_order
from kc.data.shards.plan import task_bytes
from kc.data.shards.reader import ShardReader
from kc.data.split import build_tasks
from kc.data.streams import Stream, check_stream
from kc.errors import DataError, SplitError, unknown_name
from kc.types import VOID, BoolArray, ClassInfo, Int32Array, Int64Array, Question, Setting, SplitName, StreamKind, Task

Scope = Literal["task", "seen", "all"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ShardOrder = Literal["random", "stream"]
SHARD_ORDERS: tuple[ShardOrder, ...] = get_args(ShardOrder)
"""What decoded samples may take in memory, over all splits of one data module."""


class IncrementalDataModule(LightningDataModule):
    """A benchmark cut into tasks: loaders of one task, of all seen tasks, of each seen task alone, of everything.

    `manifest`: a benchmark's name, its YAML file, or a loaded `Manifest`. `tasks`, `split`, `class_order`: see
    `kc.data.split.build_tasks`. `setting`: which images and labels a task's training sees (the table at the top of
    `kc.data.selection`). `data_root`: folder of the data sets. `limit_images`: at most so many images a split.
    `augment`: mirror training images at random. `readers`: use these instead of opening the manifest's source.
    `cache_samples`: keep up to 1 GiB of decoded samples in memory, because every task evaluates on the same test
    images again; only the main process keeps, so it helps with `num_workers=0`.

    `shard_order`: how the training images of shards are shuffled: "random" draws from all of them, "stream" reads
    shard after shard with a shuffle buffer, for shards that lie far away (`kc.data.shards.order`).

    The order, the content and the augmentation of batches depend on (seed, task, epoch), never on `num_workers`.
    Wrong arguments raise before any data is read; data is read at `setup`, or when first asked for.
    """

    def __init__(
        self,
        manifest: Manifest | str | Path,
        *,
        tasks: int | None = None,
        split: str | None = None,
        setting: Setting = "overlapped",
        class_order: str = "natural",
        data_root: str | Path | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        limit_images: int | None = None,
        augment: bool = False,
        cache_samples: bool = True,
        readers: Mapping[SplitName, Reader] | None = None,
        stream: Stream | StreamKind = "class",
        image_lists: str | Path | None = None,
        skip_bad: bool = False,
        shard_order: ShardOrder = "random",
    ) -> None:
        super().__init__()
        if setting not in SETTINGS:
            raise unknown_name("setting", setting, SETTINGS)
        stream = stream if isinstance(stream, Stream) else Stream(stream)
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
            ("limit_images", 1 if limit_images is None else limit_images, 1),
        ):
            if value < least:
                raise DataError(f"{name} must be at least {least}, not {value}.")
        self.manifest = load_manifest(manifest) if isinstance(manifest, str | Path) else manifest
        if "train" not in self.manifest.splits and readers is None:
            raise DataError(
                f"{self.manifest.name} has no training images: it asks what another benchmark taught (kc visual-memory "
                f"STUDY --benchmark OTHER --queries {self.manifest.name})"
            )
        check_stream(stream, self.manifest, setting)
        if image_lists is not None:
            if skip_bad:
                raise SplitError("image lists count all training images: they do not go with --skip-bad")
            if stream.kind in ("domain", "long-tailed") or limit_images is not None:
                raise SplitError(
                    "image lists say the images of each task: they do not go with --limit-images, nor with a domain or "
                    "long-tailed stream"
                )
            find(str(image_lists))
        self.image_lists = image_lists
        if shard_order not in SHARD_ORDERS:
            raise unknown_name("shard order", shard_order, SHARD_ORDERS)
        self.shard_order = shard_order
        self.skip_bad = skip_bad
        self.skipped: dict[SplitName, tuple[str, ...]] = {}
        self.stream = stream
        self.tasks: tuple[Task, ...] = build_tasks(self.manifest, tasks, split, class_order, stream, seed)
        self.classes: dict[int, ClassInfo] = {c.id: c for c in self.manifest.info}
        self.class_ids: tuple[int, ...] = tuple(self.classes)
        self.background_id = next((c.id for c in self.manifest.info if c.background), None)
        self.hidden_id = hidden_label(self.manifest.task_kind, self.background_id)
        self.setting: Setting = setting
        self.data_root = None if data_root is None else Path(data_root)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.limit_images = limit_images
        self.augment = augment
        self._kept = sample_budget(cache_bytes(SAMPLES) if cache_samples else 0)
        self._samples: dict[SplitName, SampleCache] = {}
        if readers is not None:
            self._samples = {name: self._streamed(name, reader) for name, reader in readers.items()}
        self._injected = readers is not None
        self._train_indices: dict[int, Int64Array] = {}
        self.save_hyperparameters(
            {
                "benchmark": self.manifest.name,
                "tasks": len(self.tasks),
                "split": split,
                "setting": setting,
                "class_order": str(class_order),
                "batch_size": batch_size,
                "seed": seed,
                "limit_images": limit_images,
                "augment": augment,
                "stream": stream.kind,
                "shard_order": shard_order,
                "image_lists": None if image_lists is None else str(image_lists),
            }
        )

    @classmethod
    def from_detectron2(
        cls,
        name: str,
        *,
        val: str | None = None,
        test: str | None = None,
        input_size: tuple[int, int] = (512, 512),
        **options: Any,
    ) -> IncrementalDataModule:
        """A stream over data sets of detectron2's catalogs: `name` to train on, `val` and `test` to score on.

        `input_size`: (H, W) that networks see. `options`: those of this class (tasks, setting, batch_size ...).
        Raises as `kc.data.detectron2.manifest_of`.
        """
        from kc.data.detectron2 import manifest_of

        parts: dict[SplitName, str | None] = {"train": name, "val": val, "test": test}
        named: dict[SplitName, str] = {split: part for split, part in parts.items() if part is not None}
        return cls(manifest_of(named, input_size), **options)

    @property
    def question(self) -> Question:
        """Over which classes answers are scored: see `kc.data.streams`."""
        return self.stream.question

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """The splits this benchmark has, of train, val and test."""
        return tuple(self._samples) if self._injected else tuple(self.manifest.splits)

    def setup(self, stage: str | None = None) -> None:
        """Open every split and check that no task is empty; raises `SplitError` or the reader's error."""
        for split in self.splits:
            self._cache(split)
        if "train" in self.splits:
            if self.shard_order == "stream":
                self._shards("train")
            for task in self.tasks:
                self._indices_of_task(task.index)

    def presence(self, split: SplitName) -> BoolArray:
        """(n, C) bool: which class (columns in manifest order, `class_ids`) each image of `split` holds."""
        return self._cache(split).reader.class_table

    def _table(self, split: SplitName) -> ClassTable:
        """The class table of a split, as bits where its reader keeps it so."""
        reader = self._cache(split).reader
        return BitTable(reader.packed_table) if isinstance(reader, ShardReader) else reader.class_table

    def n_images(self, split: SplitName, task: int, scope: Scope = "task") -> int:
        """How many images `dataset(split, task, scope)` has."""
        return len(self._select(split, self._checked(task), scope))

    def read_bytes(self) -> tuple[int, ...] | None:
        """From shards: bytes that one pass over the training images of each task reads: the blocks they lie in, and
        the index. None from other sources."""
        reader = self._cache("train").reader
        if not isinstance(reader, ShardReader):
            return None
        rows = np.arange(len(reader.index)) if reader.rows is None else reader.rows
        of_tasks = [rows[self._indices_of_task(t.index)] for t in self.tasks]
        return tuple(task_bytes(reader.index, own, None, reader.store.block).by_index for own in of_tasks)

    def dataset(
        self,
        split: SplitName,
        task: int,
        scope: Scope = "task",
        *,
        at: int | None = None,
        raw: bool | None = None,
        with_images: bool = True,
    ) -> LabelledImages:
        """The images of one scope, with the labels that may be seen.

        train, "task": the task's images under the setting, hidden labels as `hidden_id`. train, "seen": the images
        of tasks 0..task, each once, labels of all seen classes. "all": every image, every label.
        val and test, "task": images that hold a class of the task; "seen": that hold any seen class; the labels of
        all classes seen at task `at` (default: `task`) stay, later ones become VOID.

        `raw`: also give original uint8 images (default: in the evaluation of segmentation, where mask proposals need
        them). `with_images=False`: leave out the network's input. Raises `SplitError` for an empty training task or
        a wrong `task` or `at`, `UnknownNameError` for a split or scope that does not exist.
        """
        task = self._checked(task)
        shown_at = self._shown_at(split, task, at)
        indices = self._select(split, task, scope)
        training = split == "train"
        if scope == "all":
            keep = None
        elif training and scope == "task":
            keep = visible_ids(self.tasks[task], self.setting, self.background_id)
        else:
            keep = self.tasks[shown_at].seen_ids
        # Future classes are not part of the question an evaluation asks, so there they are void, not background.
        view = View(indices, keep, self.hidden_id if training else VOID, training)
        kind = self.manifest.task_kind
        height, width = self.manifest.input_size
        return LabelledImages(
            self._cache(split),
            view,
            kind=kind,
            size=(height, width),
            class_ids=self.class_ids,
            seed=self.seed,
            augment=self.augment and training,
            raw=(not training and kind != "classification") if raw is None else raw,
            with_images=with_images,
        )

    def loader(
        self,
        split: SplitName,
        task: int,
        scope: Scope = "task",
        shuffle: bool = False,
        *,
        at: int | None = None,
        raw: bool | None = None,
        with_images: bool = True,
        part: int = 0,
        parts: int = 1,
    ) -> DataLoader[Item]:
        """A loader over `dataset(...)`, in the reader's order or shuffled by (seed, task, epoch).

        `parts` processes that train together get a `part` of every batch each: together they see the batches that one
        process would see.
        """
        data = self.dataset(split, task, scope, at=at, raw=raw, with_images=with_images)
        order = None
        if shuffle and self.shard_order == "stream":
            order = partial(stream_order, self._shards(split)[data.indices])
        sampler = SeededSampler(
            len(data), shuffle=shuffle, seed=self.seed, task=task, part=part, parts=parts, order=order
        )
        return DataLoader(
            data,
            batch_size=self.batch_size // parts,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate_training if data.view.training else collate_evaluation,
            worker_init_fn=seed_worker,
            # Its own generator: drawing worker seeds must not move the global one.
            generator=generator_of(self.seed, task),
            persistent_workers=self.num_workers > 0,
        )

    def _shards(self, split: SplitName) -> Int32Array:
        """(n,) int32: the shard of each image of `split`."""
        reader = self._cache(split).reader
        if not isinstance(reader, ShardReader):
            raise DataError(
                f"shard order 'stream' is for benchmarks that lie in shards, with any stream but domain; {split} of "
                f"{self.manifest.name} is read by {type(reader).__name__}"
            )
        if reader.rows is not None and (np.diff(reader.rows) <= 0).any():
            raise DataError("shard order 'stream': the samples of the reader must be in the order of its shards")
        return reader.index.shard if reader.rows is None else reader.index.shard[reader.rows]

    def task(
        self, t: int, scope: Scope = "task", *, raw: bool | None = None, with_images: bool = True
    ) -> TaskDataModule:
        """The LightningDataModule of task `t`, for `Trainer.fit`, `validate` and `test`."""
        return TaskDataModule(self, self._checked(t), scope, raw=raw, with_images=with_images)

    def _cache(self, split: SplitName) -> SampleCache:
        if split not in self.splits:
            raise unknown_name(f"split of {self.manifest.name}", split, self.splits)
        if split not in self._samples:
            reader, bad = open_good(
                self.manifest, split, self.data_root, self.limit_images, skip=self.skip_bad, workers=None
            )
            self.skipped[split] = bad
            self._samples[split] = self._streamed(split, reader)
        return self._samples[split]

    def _streamed(self, split: SplitName, reader: Reader) -> SampleCache:
        """The samples of a split as the kind of stream shows them."""
        if self.stream.kind == "domain":
            reader = DomainReader(reader, self.stream.domain_list())
        elif self.stream.kind == "long-tailed" and split == "train":
            reader = reader.select(long_tailed(reader.class_table, self.stream.imbalance, self.seed).tolist())
        return SampleCache(reader, self._kept)

    def _checked(self, task: int) -> int:
        if not 0 <= task < len(self.tasks):
            raise SplitError(f"task {task} does not exist: this stream has tasks 0 to {len(self.tasks) - 1}.")
        return task

    def _shown_at(self, split: SplitName, task: int, at: int | None) -> int:
        if at is None:
            return task
        if split == "train":
            raise SplitError("`at` is for evaluation; what training on a task may see follows from the setting.")
        if self._checked(at) < task:
            raise SplitError(f"at={at} is before task {task}, whose classes would all be void.")
        return at

    def _indices_of_task(self, task: int) -> Int64Array:
        if self.stream.kind == "names" and task > 0:
            return np.empty(0, dtype=np.int64)
        if task not in self._train_indices:
            table = self._table("train")
            if self.stream.kind == "domain":
                self._train_indices[task] = self._of_domains("train", task, task)
                return self._train_indices[task]
            wanted = [k.index for k in self.tasks] if self.stream.kind == "blurry" else [task]
            if self.image_lists is not None:
                listed = load_image_lists(self.image_lists, len(self.tasks), self._cache("train").reader.sample_ids)
                rows = [listed[t] for t in wanted]
            else:
                rows = [
                    samples_of_task(table, self.class_ids, self.tasks, t, self.setting, self.background_id, self.seed)
                    for t in wanted
                ]
            if self.stream.kind == "blurry":
                rows = list(leaked(rows, table, self.class_ids, self.tasks, self.stream, self.seed))
            self._train_indices |= dict(zip(wanted, rows, strict=True))
        return self._train_indices[task]

    def _of_domains(self, split: SplitName, first: int, last: int) -> Int64Array:
        reader = self._cache(split).reader
        assert isinstance(reader, DomainReader)
        return np.flatnonzero((reader.domain >= first) & (reader.domain <= last)).astype(np.int64)

    def _select(self, split: SplitName, task: int, scope: Scope) -> Int64Array:
        if scope not in SCOPES:
            raise unknown_name("scope", scope, SCOPES)
        table = self._table(split)
        if scope == "all":
            return np.arange(len(table), dtype=np.int64)
        if split == "train":
            first = task if scope == "task" else 0
            chosen = np.zeros(len(table), dtype=np.bool_)
            for t in range(first, task + 1):
                chosen[self._indices_of_task(t)] = True
            return np.flatnonzero(chosen).astype(np.int64)
        if self.stream.kind == "domain":
            return self._of_domains(split, task if scope == "task" else 0, task)
        wanted = self.tasks[task].class_ids if scope == "task" else self.tasks[task].seen_ids
        chosen = images_with(table, self.class_ids, set(wanted) - {self.background_id})
        return np.flatnonzero(chosen).astype(np.int64)


class TaskDataModule(LightningDataModule):
    """One task of a stream. Training and validation follow `scope`; testing has one loader a seen task.

    The test loader of task i holds the images with a class of task i and keeps the labels of all classes seen at
    this task: one row of the score matrix. With scope "all", every task counts as seen.
    """

    def __init__(
        self, parent: IncrementalDataModule, index: int, scope: Scope, *, raw: bool | None, with_images: bool
    ) -> None:
        super().__init__()
        if scope not in SCOPES:
            raise unknown_name("scope", scope, SCOPES)
        self.parent = parent
        self.index = index
        self.scope: Scope = scope
        self.raw = raw
        self.with_images = with_images
        # Kept in checkpoints, but not sent to loggers, where they could clash with the module's own.
        self.save_hyperparameters({**parent.hparams, "task": index, "scope": scope}, logger=False)

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled by (seed, task, epoch)."""
        part, parts = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return self.parent.loader(
            "train",
            self.index,
            self.scope,
            shuffle=True,
            raw=self.raw,
            with_images=self.with_images,
            part=part,
            parts=parts,
        )

    def statistics_dataloader(self) -> DataLoader[Item]:
        """The training images once, in the reader's order, all of them in every process."""
        return self.parent.loader("train", self.index, self.scope, raw=self.raw, with_images=self.with_images)

    def val_dataloader(self) -> list[DataLoader[Item]]:
        """One loader over the validation split in the same scope; none where the benchmark has no such split."""
        if "val" not in self.parent.splits:
            return []
        return [self.parent.loader("val", self.index, self.scope, raw=self.raw, with_images=self.with_images)]

    def test_dataloader(self) -> list[DataLoader[Item]]:
        """One loader a seen task, in order."""
        last = len(self.parent.tasks) - 1 if self.scope == "all" else self.index
        return [
            self.parent.loader("test", t, "task", at=last, raw=self.raw, with_images=self.with_images)
            for t in range(last + 1)
        ]
