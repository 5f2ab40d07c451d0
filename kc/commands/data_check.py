"""`kc data check` and `stats`: whether every file can be read, and what is in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kc.commands.console import Terminal, bars, number
from kc.commands.data import ReadingConfig, TasksConfig, check_part
from kc.report.words import listing
from kc.types import SplitName

if TYPE_CHECKING:
    from kc.data.manifest import Manifest
    from kc.data.stats import Counts, Stats
    from kc.types import Task


@dataclass(frozen=True, kw_only=True)
class CheckConfig(ReadingConfig):
    """Read every file of a benchmark and report everything that is wrong; status 1 if anything is.

    Args:
        part: Split that is read; may be given several times; default: all.
        strict: Notes (equal images, empty classes) count as problems.
        all: List every problem, instead of three of each reason.
    """

    part: tuple[SplitName, ...] = ()
    strict: bool = False
    all: bool = False


def check(config: CheckConfig) -> int:
    """`kc data check`. Returns the exit status."""
    from kc.data.check import check as check_files
    from kc.data.manifest import load_manifest
    from kc.data.readers.base import summed

    manifest = load_manifest(config.benchmark)
    for part in config.part:
        check_part(manifest, part)
    with bars() as advance:
        report = check_files(
            manifest,
            config.part or None,
            config.data_root,
            limit=config.limit_images,
            workers=config.num_workers,
            progress=lambda part, done, total: advance(f"{manifest.name} {part}", done, total),
        )
    for kind, found in (("problem", report.problems), ("note", report.notes)):
        for text in found if config.all else summed(found, 3):
            print(f"{kind}: {text}")
    if report.problems and manifest.obtain:
        print(f"how to get the data: {manifest.obtain}")
    read = ", ".join(f"{n} {part}" for part, n in report.n_read.items()) or "none"
    print(f"{manifest.name}: read {read}; {len(report.problems)} problems, {len(report.notes)} notes")
    return 1 if report.problems or (config.strict and report.notes) else 0


@dataclass(frozen=True, kw_only=True)
class StatsConfig(TasksConfig, ReadingConfig):
    """Count images, pixels and instances of every class, task, step and setting.

    Args:
        part: Split that is counted.
        skip_bad: List files that cannot be read, and go on without them.
        out: Also write everything, with the images of every step, to this file as JSON.
    """

    part: SplitName = "train"
    skip_bad: bool = False
    out: Path | None = None


def stats(config: StatsConfig) -> int:
    """`kc data stats`. Returns the exit status."""
    from kc.data.manifest import load_manifest
    from kc.data.split import build_tasks
    from kc.data.stats import as_json, count
    from kc.files import write_atomic

    manifest = load_manifest(config.benchmark)
    check_part(manifest, config.part)
    tasks = build_tasks(manifest, config.tasks, config.split, config.class_order)
    with bars() as advance:
        counted = count(
            manifest,
            config.part,
            tasks,
            config.data_root,
            seed=config.seed,
            limit=config.limit_images,
            workers=config.num_workers,
            progress=lambda done, total: advance(f"{manifest.name} {config.part}", done, total),
            skip_bad=config.skip_bad,
        )
    for problem in counted.skipped:
        print(f"skipped: {problem}")
    if counted.skipped:
        print(f"skipped {len(counted.skipped)} images that cannot be read")
    _print_stats(manifest, counted, tasks)
    if config.out is not None:
        write_atomic(
            config.out, (json.dumps(as_json(counted, manifest, tasks), indent=1, ensure_ascii=False) + "\n").encode()
        )
        print(f"written: {config.out}")
    return 0


def _print_stats(manifest: Manifest, stats: Stats, tasks: Sequence[Task]) -> None:
    from rich import box
    from rich.table import Table

    console = Terminal()
    console.say(f"{manifest.name} {stats.split}: {number(stats.n_images)} images")
    if stats.n_pixels:
        share = (stats.void_pixels or 0) / stats.n_pixels
        console.say(f"{number(stats.n_pixels)} pixels, of which {share:.1%} are void")
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
        in_steps = [number(len(stats.steps[s][t].sample_ids)) for s in stats.steps] if len(settings) > 1 else []
        of_tasks.add_row(str(t + 1), listing(task.class_names), *numbers(counts), *in_steps)
    console.print(of_tasks)
    for t, step in enumerate(stats.steps["overlapped"]):
        if step.read is not None:
            console.say(f"task {t + 1} reads {number(step.read)} bytes of the shards")
    if len(settings) > 1:
        console.say("Under a setting: how many images that step trains on.")
