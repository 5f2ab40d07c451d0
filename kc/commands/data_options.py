"""Options that several actions of `kc data` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kc.errors import DataError
from kc.spec import Count, Whole
from kc.types import SplitName

if TYPE_CHECKING:
    from kc.data.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """A benchmark.

    Args:
        benchmark: Name of a benchmark, or path of a manifest.
        data_root: Folder that holds the data sets; default: the environment variable KC_DATA.
    """

    benchmark: str
    data_root: Path | None = None


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
