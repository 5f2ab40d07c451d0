"""Which images each task of a stream trains and is scored on; opens the splits. No Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from kc.budget import SAMPLES, cache_bytes
from kc.data.domains import DomainReader
from kc.data.lists import find, load_image_lists
from kc.data.manifest import Manifest
from kc.data.readers.base import Reader, check_ids
from kc.data.readers.open import open_good
from kc.data.sample_cache import SampleCache, sample_budget
from kc.data.selection import BitTable, ClassTable, images_with, leaked, long_tailed, samples_of_task
from kc.data.shards.plan import task_bytes
from kc.data.shards.reader import ShardReader
from kc.data.streams import Stream
from kc.errors import DataError, SplitError, unknown_name
from kc.types import Int32Array, Int64Array, Setting, SplitName, Task

Scope = Literal["task", "seen", "all"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


class TaskImages:
    """The images of a benchmark by split, task and scope. Arguments as of `IncrementalDataModule`."""

    def __init__(
        self,
        manifest: Manifest,
        tasks: Sequence[Task],
        stream: Stream,
        setting: Setting,
        *,
        seed: int,
        data_root: Path | None = None,
        limit: int | None = None,
        skip_bad: bool = False,
        image_lists: str | Path | None = None,
        cache_samples: bool = True,
        readers: Mapping[SplitName, Reader] | None = None,
    ) -> None:
        if "train" not in manifest.splits and readers is None:
            raise DataError(
                f"{manifest.name} has no training images: it evaluates what was learned on another benchmark (kc study "
                f"STUDY --benchmark OTHER --queries {manifest.name})"
            )
        if image_lists is not None:
            if skip_bad:
                raise SplitError("image lists count all training images: they do not go with --skip-bad")
            if stream.kind in ("domain", "long-tailed") or limit is not None:
                raise SplitError(
                    "image lists say the images of each task: they do not go with --limit-images, nor with a domain or "
                    "long-tailed stream"
                )
            find(str(image_lists))
        self.manifest, self.tasks, self.stream, self.setting = manifest, tasks, stream, setting
        self.class_ids = manifest.class_ids()
        self.seed, self.data_root, self.limit, self.skip_bad = seed, data_root, limit, skip_bad
        self.image_lists = image_lists
        self.skipped: dict[SplitName, tuple[str, ...]] = {}
        self._kept = sample_budget(cache_bytes(SAMPLES) if cache_samples else 0)
        self._opened = {name: self._streamed(name, reader) for name, reader in (readers or {}).items()}
        self.splits: tuple[SplitName, ...] = tuple(manifest.splits if readers is None else readers)
        self._train_indices: dict[int, Int64Array] = {}

    def samples(self, split: SplitName) -> SampleCache:
        """The samples of a split, opened when first asked for."""
        if split not in self.splits:
            raise unknown_name(f"split of {self.manifest.name}", split, self.splits)
        if split not in self._opened:
            reader, bad = open_good(self.manifest, split, self.data_root, self.limit, skip=self.skip_bad)
            self.skipped[split] = bad
            self._opened[split] = self._streamed(split, reader)
        return self._opened[split]

    def _streamed(self, split: SplitName, reader: Reader) -> SampleCache:
        """The samples of a split as the kind of stream shows them."""
        if self.stream.kind == "domain":
            reader = DomainReader(reader, self.stream.domain_list())
        elif self.stream.kind == "long-tailed" and split == "train":
            reader = reader.select(long_tailed(reader.class_table, self.stream.imbalance, self.seed).tolist())
        check_ids(reader)  # also of readers that are given, and of the ids that domains make
        return SampleCache(reader, self._kept)

    def _table(self, split: SplitName) -> ClassTable:
        """The class table of a split, as bits where its reader keeps it so."""
        reader = self.samples(split).reader
        return BitTable(reader.packed_table) if isinstance(reader, ShardReader) else reader.class_table

    def read_bytes(self) -> tuple[int, ...] | None:
        """From shards: bytes that one pass over the training images of each task reads, else None."""
        reader = self.samples("train").reader
        if not isinstance(reader, ShardReader):
            return None
        rows = np.arange(len(reader.index)) if reader.rows is None else reader.rows
        return tuple(task_bytes(reader.index, rows[self.trained_on(t.index)], reader.store.block) for t in self.tasks)

    def shards(self, split: SplitName) -> Int32Array:
        """(n,) int32: the shard of each image of `split`."""
        reader = self.samples(split).reader
        if not isinstance(reader, ShardReader):
            raise DataError(
                f"shard order 'stream' is for benchmarks that lie in shards, with any stream but domain; {split} of "
                f"{self.manifest.name} is read by {type(reader).__name__}"
            )
        if reader.rows is not None and (np.diff(reader.rows) <= 0).any():
            raise DataError("shard order 'stream': the samples of the reader must be in the order of its shards")
        return reader.index.shard if reader.rows is None else reader.index.shard[reader.rows]

    def trained_on(self, task: int) -> Int64Array:
        """Sorted rows of the training images of `task`. Raises SplitError where there is none."""
        if self.stream.kind == "names" and task > 0:
            return np.empty(0, dtype=np.int64)
        if task not in self._train_indices:
            table = self._table("train")
            if self.stream.kind == "domain":
                self._train_indices[task] = self._of_domains("train", task, task)
                return self._train_indices[task]
            wanted = [k.index for k in self.tasks] if self.stream.kind == "blurry" else [task]
            if self.image_lists is not None:
                listed = load_image_lists(self.image_lists, len(self.tasks), self.samples("train").reader.sample_ids)
                rows = [listed[t] for t in wanted]
            else:
                rows = [
                    samples_of_task(
                        table, self.class_ids, self.tasks, t, self.setting, self.manifest.background_id, self.seed
                    )
                    for t in wanted
                ]
            if self.stream.kind == "blurry":
                rows = list(leaked(rows, table, self.class_ids, self.tasks, self.stream, self.seed))
            self._train_indices |= dict(zip(wanted, rows, strict=True))
        return self._train_indices[task]

    def _of_domains(self, split: SplitName, first: int, last: int) -> Int64Array:
        reader = self.samples(split).reader
        assert isinstance(reader, DomainReader)
        return np.flatnonzero((reader.domain >= first) & (reader.domain <= last)).astype(np.int64)

    def select(self, split: SplitName, task: int, scope: Scope) -> Int64Array:
        """Sorted rows of the images of one scope: see `IncrementalDataModule.dataset`."""
        if scope not in SCOPES:
            raise unknown_name("scope", scope, SCOPES)
        table = self._table(split)
        if scope == "all":
            return np.arange(len(table), dtype=np.int64)
        if split == "train":
            first = task if scope == "task" else 0
            chosen = np.zeros(len(table), dtype=np.bool_)
            for t in range(first, task + 1):
                chosen[self.trained_on(t)] = True
            return np.flatnonzero(chosen).astype(np.int64)
        if self.stream.kind == "domain":
            return self._of_domains(split, task if scope == "task" else 0, task)
        wanted = self.tasks[task].class_ids if scope == "task" else self.tasks[task].seen_ids
        chosen = images_with(table, self.class_ids, set(wanted) - {self.manifest.background_id})
        return np.flatnonzero(chosen).astype(np.int64)
