"""`kc data`: its actions, and the options that several of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kc import actions
from kc.errors import DataError
from kc.spec import Count, DataOptions, Whole
from kc.types import SplitName

if TYPE_CHECKING:
    from kc.data.manifest import Manifest

ACTIONS: actions.Table = {
    "list": ("kc.commands.data_show:list_all", "every benchmark: kind, classes, parts, and whether its data is here"),
    "show": ("kc.commands.data_show:show", "one benchmark: its classes, splits, licence, and how to get its data"),
    "fetch": ("kc.commands.data_show:fetch", "download its archives, verify and unpack them; resumes"),
    "check": ("kc.commands.data_check:check", "read every file and report all that is wrong; status 1 if anything is"),
    "stats": ("kc.commands.data_check:stats", "count images, pixels and instances by class, task, step and setting"),
    "preview": ("kc.commands.data_show:preview", "a contact sheet of images with their labels, as PNG"),
    "split": (
        "kc.commands.data_write:split",
        "show the classes and images of each task; write lists as MiB and PLOP do",
    ),
    "shards": ("kc.commands.data_write:shards", "write it as tar shards with an index (WebDataset); resumes"),
}


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(DataOptions):
    """A benchmark.

    Args:
        benchmark: Name of a benchmark, or path of a manifest.
    """

    benchmark: str


@dataclass(frozen=True, kw_only=True)
class ReadingConfig(BenchmarkConfig):
    """A benchmark whose files are read.

    Args:
        limit_images: At most so many images of a part.
        num_workers: Threads that read; default: one a core, at most 8.
    """

    limit_images: Count | None = None
    num_workers: Count | None = None


@dataclass(frozen=True, kw_only=True)
class TasksConfig(BenchmarkConfig):
    """A benchmark in tasks.

    Args:
        tasks: Number of tasks; classes are divided evenly.
        split: One of the benchmark's named task splits, such as 15-1.
        class_order: natural, shuffle:SEED, or a file of class names.
        seed: Seed of the setting `partition`.
    """

    tasks: Count | None = None
    split: str | None = None
    class_order: str = "natural"
    seed: Whole = 0


def check_part(manifest: Manifest, part: SplitName) -> None:
    """Raises DataError for a part that the benchmark has not."""
    if part not in manifest.splits:
        raise DataError(f"{manifest.name} has no part {part!r}; it has {', '.join(manifest.splits)}")
