"""`kc data split` and `shards`: the tasks of a benchmark, or all of it, in the formats of other programs."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from kc.actions import FLAG
from kc.commands.console import Terminal, bars
from kc.commands.data import ReadingConfig, TasksConfig, check_part
from kc.errors import SplitError, stopped
from kc.progress import counted
from kc.spec import Count
from kc.types import Setting, SplitName


@dataclass(frozen=True, kw_only=True)
class SplitConfig(TasksConfig):
    """Show which classes and images each task has, and write them in the formats of MiB and PLOP.

    Args:
        setting: Which images a task has.
        image_lists: Folder of train-0.npy, train-1.npy ... (or .txt) that say which images each task has.
        limit_images: At most so many images.
        out: Folder for tasks.yaml, order.txt, train-T.npy and train-T.txt.
    """

    setting: Setting = "overlapped"
    image_lists: Path | None = None
    limit_images: Count | None = None
    out: Path | None = None


def split(config: SplitConfig) -> int:
    """Show classes and images of each task; with `--out`, write tasks.yaml, order.txt and the lists of images.

    Returns the exit status. Raises SplitError for what cannot be divided.
    """
    import numpy as np
    from rich import box
    from rich.table import Table

    from kc.data.lists import load_image_lists
    from kc.data.manifest import load_manifest
    from kc.data.readers.open import open_reader
    from kc.data.selection import samples_of_task
    from kc.data.split import build_tasks
    from kc.files import write_atomic

    manifest = load_manifest(config.benchmark)
    if config.image_lists is not None and config.limit_images is not None:
        raise SplitError("--image-lists says which images there are: leave --limit-images out")
    tasks = build_tasks(manifest, config.tasks, config.split, config.class_order)
    reader = open_reader(manifest, "train", config.data_root, config.limit_images)
    ids = reader.sample_ids
    if config.image_lists is not None:
        rows = load_image_lists(config.image_lists, len(tasks), ids)
    else:
        rows = tuple(
            samples_of_task(
                reader.class_table, manifest.class_ids(), tasks, t, config.setting, manifest.background_id, config.seed
            )
            for t in range(len(tasks))
        )
    said = f"images of {config.image_lists}" if config.image_lists is not None else f"setting {config.setting}"
    console = Terminal()
    console.say(f"{manifest.name}: {len(tasks)} tasks, {said}, {len(reader)} training images")
    table = Table("task", "classes", "images", box=box.SIMPLE_HEAD)
    for task, own in zip(tasks, rows, strict=True):
        table.add_row(str(task.index + 1), ", ".join(task.class_names), f"{len(own):,}")
    console.print(table)
    if config.out is None:
        return 0
    names = {c.id: c.name for c in manifest.classes}
    lines = [f"{task.index}: {json.dumps(list(task.class_ids))}\n" for task in tasks]
    write_atomic(config.out / "tasks.yaml", "".join(lines).encode())
    order = [names[c] for c in tasks[-1].seen_ids]
    write_atomic(config.out / "order.txt", "".join(f"{name}\n" for name in order).encode())
    for t, own in enumerate(rows):
        file = io.BytesIO()
        np.save(file, own, allow_pickle=False)
        write_atomic(config.out / f"train-{t}.npy", file.getvalue())
        text = "".join(ids[row].partition("/")[2] + "\n" for row in own.tolist())
        write_atomic(config.out / f"train-{t}.txt", text.encode())
    print(f"written: {config.out}: tasks.yaml, order.txt, and train-T.npy and train-T.txt of {len(tasks)} tasks")
    return 0


@dataclass(frozen=True, kw_only=True)
class ShardsConfig(ReadingConfig):
    """Write a benchmark as tar shards with an index (WebDataset); the same command goes on after a stop.

    Args:
        out: Folder, or an address such as s3://bucket/camvid.
        part: Split that is written; may be given several times; default: all.
        per_shard: Images a shard.
        skip_bad: List files that cannot be read, and go on without them.
    """

    out: Annotated[str, FLAG]
    part: tuple[SplitName, ...] = ()
    per_shard: Count = 1000
    skip_bad: bool = False


def shards(config: ShardsConfig) -> int:
    """Write the shards of every part, then the manifest that reads them. Returns the exit status."""
    from kc.data.manifest import load_manifest
    from kc.data.readers.open import content_key, open_good
    from kc.data.shards.store import open_store
    from kc.data.shards.write import manifest_of_shards, write_shards

    manifest = load_manifest(config.benchmark)
    parts = list(config.part) or list(manifest.splits)
    for part in parts:
        check_part(manifest, part)
    remote = "://" in config.out or config.out.lstrip().lower().startswith("pipe:")
    store = open_store(config.out if remote else Path(config.out))
    content = content_key(manifest, config.data_root)
    for part in parts:
        with stopped("the same command goes on after the last whole shard"), bars("shards") as advance:
            reader, bad = open_good(
                manifest, part, config.data_root, config.limit_images, skip=config.skip_bad, workers=config.num_workers
            )
            done = write_shards(
                manifest,
                part,
                reader,
                store,
                content,
                per_shard=config.per_shard,
                workers=config.num_workers,
                progress=partial(advance, f"{manifest.name} {part}"),
            )
        for problem in bad:
            print(f"skipped: {problem}")
        print(
            f"{manifest.name} {part}: {counted(done.samples, 'images')} in {counted(done.new + done.kept, 'shards')}, "
            f"{done.bytes:,} bytes; "
            f"wrote {done.new}, {done.kept} were there" + (f"; skipped {len(bad)} bad files" if bad else "")
        )
    name = f"{manifest.name}.yaml"
    kept = manifest.model_copy(update={"splits": {p: manifest.splits[p] for p in parts}})
    folder = "." if remote else Path(config.out).resolve().name
    store.write(name, manifest_of_shards(kept, folder, config.out if remote else None).encode())
    if remote:
        print(f"manifest: {store.name}/{name}; copy it here, then --benchmark {name}")
    else:
        print(f"run on them with: --benchmark {Path(config.out) / name} --data-root {config.out}")
    return 0
