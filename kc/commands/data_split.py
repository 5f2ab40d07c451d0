"""`kc data split`: the tasks of a benchmark, shown, and written in the formats of other programs."""

from __future__ import annotations

import argparse
import io
import json

import numpy as np

from kc.commands.data_shared import terminal, write
from kc.errors import SplitError, unknown_name


def run_split(given: argparse.Namespace) -> int:
    """Show classes and images of each task; with `--out`, write tasks.yaml, order.txt and the lists of images.

    Returns the exit status. Raises SplitError for what cannot be divided.
    """
    from rich import box
    from rich.table import Table

    from kc.data.lists import load_image_lists
    from kc.data.manifest import load_manifest
    from kc.data.readers.open import open_reader
    from kc.data.selection import SETTINGS, samples_of_task
    from kc.data.split import build_tasks

    manifest = load_manifest(given.benchmark)
    if given.setting not in SETTINGS:
        raise unknown_name("setting", given.setting, SETTINGS)
    if given.image_lists is not None and given.limit_images is not None:
        raise SplitError("--image-lists says which images there are: leave --limit-images out")
    tasks = build_tasks(manifest, given.tasks, given.split, given.class_order)
    reader = open_reader(manifest, "train", given.data_root, given.limit_images)
    ids = reader.sample_ids
    if given.image_lists is not None:
        rows = load_image_lists(given.image_lists, len(tasks), ids)
    else:
        rows = tuple(
            samples_of_task(
                reader.class_table, manifest.class_ids(), tasks, t, given.setting, manifest.background_id, given.seed
            )
            for t in range(len(tasks))
        )
    said = f"images of {given.image_lists}" if given.image_lists is not None else f"setting {given.setting}"
    console = terminal()
    console.print(f"{manifest.name}: {len(tasks)} tasks, {said}, {len(reader)} training images", highlight=False)
    table = Table("task", "classes", "images", box=box.SIMPLE_HEAD)
    for task, own in zip(tasks, rows, strict=True):
        table.add_row(str(task.index), ", ".join(task.class_names), f"{len(own):,}")
    console.print(table)
    if given.out is None:
        return 0
    names = {c.id: c.name for c in manifest.classes}
    lines = [f"{task.index}: {json.dumps(list(task.class_ids))}\n" for task in tasks]
    write(given.out / "tasks.yaml", "".join(lines).encode())
    order = [names[c] for c in tasks[-1].seen_ids]
    write(given.out / "order.txt", "".join(f"{name}\n" for name in order).encode())
    for t, own in enumerate(rows):
        file = io.BytesIO()
        np.save(file, own, allow_pickle=False)
        write(given.out / f"train-{t}.npy", file.getvalue())
        text = "".join(ids[row].partition("/")[2] + "\n" for row in own.tolist())
        write(given.out / f"train-{t}.txt", text.encode())
    print(f"wrote {given.out}: tasks.yaml, order.txt, and train-T.npy and train-T.txt of {len(tasks)} tasks")
    return 0
