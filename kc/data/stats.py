"""Count a split: images, pixels and instances of every class and task, and the images of every step and setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kc.data.manifest import Manifest
from kc.data.parallel import in_order
from kc.data.readers.base import Reader
from kc.data.readers.open import open_good
from kc.data.selection import SETTINGS, images_with, samples_of_task
from kc.data.shards.plan import task_bytes
from kc.data.shards.reader import ShardReader
from kc.errors import SplitError
from kc.types import VOID, Int64Array, Setting, SplitName, Task


@dataclass(frozen=True)
class Counts:
    """`images` with at least one pixel (or the label) of it; `pixels`: None in classification; `instances`: segments
    of things without crowds, None for stuff and where the benchmark has none.
    """

    images: int
    pixels: int | None
    instances: int | None


@dataclass(frozen=True)
class Step:
    """The training images of one task under one setting: `sample_ids`, or why there is none in `problem`.

    `read`: bytes that a pass over them reads from shards; None where the benchmark does not lie in shards.
    """

    sample_ids: tuple[str, ...]
    problem: str | None = None
    read: int | None = None


@dataclass(frozen=True)
class Stats:
    """`void_pixels`: None in classification. `classes`: in manifest order. `tasks`: as given; a task's `images` hold
    at least one of its classes, the background not counted. `steps`: setting -> one entry a task. `skipped`: what is
    wrong with each image that could not be read.
    """

    split: SplitName
    n_images: int
    n_pixels: int | None
    void_pixels: int | None
    classes: tuple[Counts, ...]
    tasks: tuple[Counts, ...]
    steps: dict[Setting, tuple[Step, ...]]
    skipped: tuple[str, ...] = ()


def count(
    manifest: Manifest,
    split: SplitName,
    tasks: Sequence[Task],
    data_root: Path | None = None,
    *,
    seed: int = 0,
    limit: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    skip_bad: bool = False,
) -> Stats:
    """Count one split. `seed` matters for the setting `partition`. Raises DataError for a sample that cannot be read.

    Settings choose training images; for another split the table says what they would choose there.
    """
    reader, bad = open_good(manifest, split, data_root, limit, skip=skip_bad, workers=workers)
    ids, table = manifest.class_ids(), reader.class_table
    background = manifest.background_id
    n_images: Int64Array = table.sum(axis=0, dtype=np.int64)
    n_pixels = void = None
    pixels: Int64Array | None = None
    instances: Int64Array | None = None
    if manifest.task_kind != "classification":
        pixels, void, instances = _count_pixels(manifest, reader, workers, progress)
        n_pixels = int(pixels.sum()) + void
    things = [c.thing and manifest.task_kind == "panoptic" for c in manifest.classes]
    classes = tuple(
        Counts(
            int(n_images[c]),
            None if pixels is None else int(pixels[c]),
            None if instances is None or not things[c] else int(instances[c]),
        )
        for c in range(len(ids))
    )
    counted = []
    for task in tasks:
        columns = [ids.index(c) for c in task.class_ids]
        held = images_with(table, ids, set(task.class_ids) - {background})
        of_things = [n for n in (classes[c].instances for c in columns) if n is not None]
        of_pixels = None if pixels is None else int(pixels[columns].sum())
        counted.append(Counts(int(held.sum()), of_pixels, sum(of_things) if of_things else None))
    steps = {s: tuple(_step(manifest, reader, tasks, t, s, seed) for t in range(len(tasks))) for s in SETTINGS}
    return Stats(split, len(reader), n_pixels, void, classes, tuple(counted), steps, bad)


def as_json(stats: Stats, manifest: Manifest, tasks: Sequence[Task]) -> dict[str, Any]:
    """Everything as plain values: counts by class and task, and the sample ids of every step under each setting."""
    named = [
        {"id": c.id, "name": c.name, **vars(counts)} for c, counts in zip(manifest.classes, stats.classes, strict=True)
    ]
    by_task = [
        {"task": task.index, "class_ids": list(task.class_ids), "class_names": list(task.class_names), **vars(counts)}
        for task, counts in zip(tasks, stats.tasks, strict=True)
    ]
    steps = {
        setting: [{"sample_ids": list(s.sample_ids), "problem": s.problem, "bytes": s.read} for s in of_setting]
        for setting, of_setting in stats.steps.items()
    }
    return {
        "schema": 1,
        "benchmark": manifest.name,
        "manifest": manifest.fingerprint,
        "split": stats.split,
        "images": stats.n_images,
        "pixels": stats.n_pixels,
        "void_pixels": stats.void_pixels,
        "classes": named,
        "tasks": by_task,
        "steps": steps,
        "skipped": list(stats.skipped),
    }


def _count_pixels(
    manifest: Manifest, reader: Reader, workers: int | None, progress: Callable[[int, int], None] | None
) -> tuple[Int64Array, int, Int64Array]:
    """Pixels (C,), void pixels and instances (C,) of every sample together."""
    ids = np.asarray(manifest.class_ids(), dtype=np.int64)
    top = int(ids.max()) + 2  # counted from VOID on

    def one(index: int) -> tuple[Int64Array, Int64Array]:
        sample = reader.read(index)
        assert sample.semantic is not None
        area = np.bincount(sample.semantic.ravel() - VOID, minlength=top)
        segments = np.zeros(top, dtype=np.int64)
        if sample.panoptic is not None:
            category, instance = (sample.panoptic[..., i].astype(np.int64) for i in (0, 1))
            n = int(instance.max(initial=0)) + 1
            held = np.unique((category - VOID) * n + instance)
            real = (held % n > 0) & ~np.isin(held % n, list(sample.crowd))
            segments = np.bincount(held[real] // n, minlength=top)
        return area, segments

    area, segments = np.zeros(top, dtype=np.int64), np.zeros(top, dtype=np.int64)
    for index, (of_one, of_things) in enumerate(in_order(one, len(reader), workers)):
        area += of_one
        segments += of_things
        if progress is not None:
            progress(index + 1, len(reader))
    return area[ids - VOID], int(area[0]), segments[ids - VOID]


def _step(manifest: Manifest, reader: Reader, tasks: Sequence[Task], t: int, setting: Setting, seed: int) -> Step:
    try:
        rows = samples_of_task(
            reader.class_table, manifest.class_ids(), tasks, t, setting, manifest.background_id, seed
        )
    except SplitError as error:
        return Step((), str(error))
    ids = reader.sample_ids
    read = None
    if isinstance(reader, ShardReader):
        kept = rows if reader.rows is None else reader.rows[rows]
        read = task_bytes(reader.index, kept, reader.store.block)
    return Step(tuple(ids[row] for row in rows), read=read)
