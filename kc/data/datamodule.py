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

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from kc.data.dataset import (
    Item,
    LabelledImages,
    SeededSampler,
    SharedSampler,
    View,
    collate_evaluation,
    collate_training,
    generator_of,
    hidden_label,
    seed_worker,
    size_in_step,
)
from kc.data.manifest import Manifest, load_manifest
from kc.data.readers.base import Reader
from kc.data.selection import SETTINGS, visible_ids
from kc.data.shards.plan import stream_order
from kc.data.split import build_tasks
from kc.data.streams import Stream, check_stream
from kc.data.task_images import SCOPES, Scope, TaskImages
from kc.errors import DataError, SplitError, unknown_name
from kc.types import VOID, BoolArray, ClassInfo, EvaluatedOn, Setting, SplitName, StreamKind, Task

ShardOrder = Literal["random", "stream"]
SHARD_ORDERS: tuple[ShardOrder, ...] = get_args(ShardOrder)


class IncrementalDataModule(LightningDataModule):
    """A benchmark cut into tasks: loaders of one task, of all seen tasks, of each seen task alone, of everything.

    `manifest`: a benchmark's name, its YAML file, or a loaded `Manifest`. `tasks`, `split`, `class_order`: see
    `kc.data.split.build_tasks`. `setting`: which images and labels a task's training sees (the table at the top of
    `kc.data.selection`). `data_root`: folder of the data sets. `limit_images`: at most so many images a split.
    `augment`: mirror training images at random. `readers`: use these instead of opening the manifest's source.
    `cache_samples`: keep decoded samples in memory (`kc.budget`), because every task evaluates on the same test images
    again; only the main process keeps, so it helps with `num_workers=0`.

    `shard_order`: how the training images of shards are shuffled: "random" draws from all of them, "stream" reads
    shard after shard with a shuffle buffer, for shards that lie far away (`kc.data.shards.plan`).

    Batches depend on (seed, task, epoch), never on `num_workers`. Wrong arguments raise before any data is read.
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
        check_stream(stream, self.manifest, setting)
        self.image_lists = image_lists
        if shard_order not in SHARD_ORDERS:
            raise unknown_name("shard order", shard_order, SHARD_ORDERS)
        self.shard_order = shard_order
        self.stream = stream
        self.tasks: tuple[Task, ...] = build_tasks(self.manifest, tasks, split, class_order, stream, seed)
        self.classes: dict[int, ClassInfo] = {c.id: c for c in self.manifest.info}
        self.class_ids: tuple[int, ...] = tuple(self.classes)
        self.background_id = self.manifest.background_id
        self.hidden_id = hidden_label(self.manifest.task_kind, self.background_id)
        self.setting: Setting = setting
        self.data_root = None if data_root is None else Path(data_root)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.limit_images = limit_images
        self.augment = augment
        self.images = TaskImages(
            self.manifest,
            self.tasks,
            stream,
            setting,
            seed=seed,
            data_root=self.data_root,
            limit=limit_images,
            skip_bad=skip_bad,
            image_lists=image_lists,
            cache_samples=cache_samples,
            readers=readers,
        )
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
    def evaluated_on(self) -> EvaluatedOn:
        """Over which classes answers are scored: see `kc.data.streams`."""
        return self.stream.evaluated_on

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """The splits this benchmark has, of train, val and test."""
        return self.images.splits

    @property
    def skipped(self) -> dict[SplitName, tuple[str, ...]]:
        """What is wrong with each image that `skip_bad` left out, by split."""
        return self.images.skipped

    def setup(self, stage: str | None = None) -> None:
        """Open every split and check that no task is empty; raises `SplitError` or the reader's error."""
        for split in self.splits:
            self.images.samples(split)
        if "train" in self.splits:
            if self.shard_order == "stream":
                self.images.shards("train")
            for task in self.tasks:
                self.images.trained_on(task.index)

    def presence(self, split: SplitName) -> BoolArray:
        """(n, C) bool: which class (columns in manifest order, `class_ids`) each image of `split` holds."""
        return self.images.samples(split).reader.class_table

    def n_images(self, split: SplitName, task: int, scope: Scope = "task") -> int:
        """How many images `dataset(split, task, scope)` has."""
        return len(self.images.select(split, self._checked(task), scope))

    def read_bytes(self) -> tuple[int, ...] | None:
        """From shards: bytes that one pass over the training images of each task reads; None from other sources."""
        return self.images.read_bytes()

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
        indices = self.images.select(split, task, scope)
        training = split == "train"
        if scope == "all":
            keep = None
        elif training and scope == "task":
            keep = visible_ids(self.tasks[task], self.setting, self.background_id)
        else:
            keep = self.tasks[shown_at].seen_ids
        # Future classes are not part of what is evaluated, so there they are void, not background.
        view = View(indices, keep, self.hidden_id if training else VOID, training)
        kind = self.manifest.task_kind
        return LabelledImages(
            self.images.samples(split),
            view,
            kind=kind,
            size=self.manifest.input_size,
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

        Of every batch each of `parts` processes that work together gets a `part`; see `SeededSampler`.
        """
        data = self.dataset(split, task, scope, at=at, raw=raw, with_images=with_images)
        order = None
        if shuffle and self.shard_order == "stream":
            order = partial(stream_order, self.images.shards(split)[data.indices])
        kind = SharedSampler if parts > 1 else SeededSampler
        sampler = kind(len(data), shuffle=shuffle, seed=self.seed, task=task, part=part, parts=parts, order=order)
        size = max(1, self.batch_size // parts)
        return DataLoader(
            data,
            batch_size=size if shuffle else size_in_step(len(data), parts, size),
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate_training if data.view.training else collate_evaluation,
            worker_init_fn=seed_worker,
            # Its own generator: drawing worker seeds must not move the global one.
            generator=generator_of(self.seed, task),
            persistent_workers=self.num_workers > 0 and split != "test",  # testing has a loader a task
        )

    def task(
        self, t: int, scope: Scope = "task", *, raw: bool | None = None, with_images: bool = True
    ) -> TaskDataModule:
        """The LightningDataModule of task `t`, for `Trainer.fit`, `validate` and `test`."""
        return TaskDataModule(self, self._checked(t), scope, raw=raw, with_images=with_images)

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

    def _loader(self, split: SplitName, task: int, scope: Scope, **more: Any) -> DataLoader[Item]:
        return self.parent.loader(split, task, scope, raw=self.raw, with_images=self.with_images, **more)

    def _share(self) -> dict[str, int]:
        return {} if self.trainer is None else {"part": self.trainer.global_rank, "parts": self.trainer.world_size}

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled by (seed, task, epoch)."""
        return self._loader("train", self.index, self.scope, shuffle=True, **self._share())

    def statistics_dataloader(self) -> DataLoader[Item]:
        """The training images once, in the reader's order, all of them in every process."""
        return self._loader("train", self.index, self.scope)

    def val_dataloader(self) -> list[DataLoader[Item]]:
        """One loader over the validation split in the same scope; none where the benchmark has no such split."""
        if "val" not in self.parent.splits:
            return []
        return [self._loader("val", self.index, self.scope, **self._share())]

    def test_dataloader(self) -> list[DataLoader[Item]]:
        """One loader a seen task, in order."""
        last = len(self.parent.tasks) - 1 if self.scope == "all" else self.index
        return [self._loader("test", t, "task", at=last, **self._share()) for t in range(last + 1)]
