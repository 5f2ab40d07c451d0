"""`kc data check` and `stats`: whether every file can be read, and what is in them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kc.commands.data_shared import bars, has, number, terminal, write

if TYPE_CHECKING:
    from kc.data.manifest import Manifest
    from kc.data.stats import Counts, Stats
    from kc.types import Task


def run_check(given: argparse.Namespace) -> int:
    from kc.data.check import check
    from kc.data.manifest import load_manifest

    manifest = load_manifest(given.benchmark)
    for part in given.part or ():
        has(manifest, part)
    with bars() as advance:
        report = check(
            manifest,
            given.part,
            given.data_root,
            limit=given.limit_images,
            workers=given.num_workers,
            progress=lambda part, done, total: advance(f"{manifest.name} {part}", done, total),
        )
    for problem in report.problems:
        print(f"problem: {problem}")
    for note in report.notes:
        print(f"note: {note}")
    read = ", ".join(f"{n} {part}" for part, n in report.n_read.items()) or "none"
    print(f"{manifest.name}: read {read}; {len(report.problems)} problems, {len(report.notes)} notes")
    return 1 if report.problems or (given.strict and report.notes) else 0


def run_stats(given: argparse.Namespace) -> int:
    from kc.data.manifest import load_manifest
    from kc.data.split import build_tasks
    from kc.data.stats import as_json, count

    manifest = load_manifest(given.benchmark)
    has(manifest, given.part)
    tasks = build_tasks(manifest, given.tasks, given.split, given.class_order)
    with bars() as advance:
        stats = count(
            manifest,
            given.part,
            tasks,
            given.data_root,
            seed=given.seed,
            limit=given.limit_images,
            workers=given.num_workers,
            progress=lambda done, total: advance(f"{manifest.name} {given.part}", done, total),
        )
    _print_stats(manifest, stats, tasks)
    if given.out is not None:
        write(given.out, (json.dumps(as_json(stats, manifest, tasks), indent=1, ensure_ascii=False) + "\n").encode())
        print(f"wrote {given.out}")
    return 0


def _print_stats(manifest: Manifest, stats: Stats, tasks: Sequence[Task]) -> None:
    from rich import box
    from rich.table import Table

    console = terminal()
    console.print(f"{manifest.name} {stats.split}: {number(stats.n_images)} images", highlight=False)
    if stats.n_pixels:
        share = (stats.void_pixels or 0) / stats.n_pixels
        console.print(f"{number(stats.n_pixels)} pixels, of which {share:.1%} are void", highlight=False)
    has_pixels, has_things = stats.n_pixels is not None, any(c.instances is not None for c in stats.classes)

    def numbers(counts: Counts) -> list[str]:
        cells = [number(counts.images)]
        if has_pixels:
            cells.append(number(counts.pixels))
            cells.append(f"{(counts.pixels or 0) / stats.n_pixels:.2%}" if stats.n_pixels else "")
        return cells + ([number(counts.instances)] if has_things else [])

    heads = ["images", *(["pixels", "share"] if has_pixels else []), *(["instances"] if has_things else [])]
    of_classes = Table("id", "class", box=box.SIMPLE_HEAD)
    for head in heads:
        of_classes.add_column(head, justify="right")
    for c, counts in zip(manifest.classes, stats.classes, strict=True):
        of_classes.add_row(str(c.id), c.name, *numbers(counts))
    console.print(of_classes)
    if len(tasks) == 1:
        return
    settings = list(stats.steps) if manifest.task_kind != "classification" else ["overlapped"]
    of_tasks = Table("task", "classes", box=box.SIMPLE_HEAD)
    for head in (*heads, *(settings if len(settings) > 1 else [])):
        of_tasks.add_column(head, justify="right")
    for t, (task, counts) in enumerate(zip(tasks, stats.tasks, strict=True)):
        names = ", ".join(task.class_names[:3]) + (
            f", ... ({len(task.class_names)})" if len(task.class_names) > 3 else ""
        )
        in_steps = [number(len(stats.steps[s][t].sample_ids)) for s in stats.steps] if len(settings) > 1 else []
        of_tasks.add_row(str(t), names, *numbers(counts), *in_steps)
    console.print(of_tasks)
    if len(settings) > 1:
        console.print("Under a setting: how many images that step trains on.", highlight=False)
