"""What `kc memory` is asked to do: the typed signature behind its command line. Loads in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kc.parsing import parser, values_of


@dataclass(frozen=True)
class MemoryConfig:
    """Look into a memory, move it, and take rows out of it. Tasks are counted from 1, as `kc run` prints them.

    Args:
        action: stats, verify, repair, versions, diff, search, explain, export, import, compact, remove, erase, add,
            snapshot, reweight, migrate or build.
        memory: Folder of the memory; that of a run is RUN/methods/knn-s0/memory.
        first: export, import, verify --absent: a .npz or .parquet file; diff: the first task; search, explain: an
            image file, or a sample of the benchmark; add: a folder of images or of class folders; migrate: the new
            memory.
        second: diff: the second task; default: the present. explain: the picture to write; default:
            explain-IMAGE.png.
        ids: Rows with these ids: 3,7,10-20.
        class_: Rows of these classes: names or ids, separated by commas.
        source: Rows of these sources, separated by commas.
        task: Rows that these tasks added, separated by commas.
        sample: Rows of these samples (images), separated by commas.
        at: stats, search, explain, export: the memory as it was after this task; default: the present.
        absent: verify: prove that no file holds the rows with these ids; with an export made before, their bytes too.
        benchmark: Benchmark whose names the classes have, where the memory and its run do not say.
        k: search: how many rows, 10 where nothing is said; explain: how many vote, as many as in the run.
        point: search, explain: in a memory of regions, the region at this pixel, ROW,COLUMN; default: the largest.
        encoder: search, explain, add, migrate: encoder of the keys, where no run says it; build: the one to use.
        dry_run: Say what would change, and change nothing.
        drop_history: compact: keep the present only.
        keys: build: pooled (from the image's feature map; the default) or masked (crop, black out, encode).
        proposals: build: regions that become rows: oracle (the labelled segments; the default), any of kc run, or
            grounded-sam:DINO_PATH,SAM_PATH, which finds names in --images.
        purity: build: share of a region's pixels that must be labelled as one class for it to become a row.
        images: build: folder of unlabelled images.
        names: build: file with the names to look for in --images, one a line; default: those of --benchmark.
        fallback: build: images for names that end without a row: folders of classes, or, with --proposals grounded-sam,
            unlabelled ones.
        limit_images: build: at most so many images of the benchmark.
        strict: remove, erase, reweight: exit with 1 where no row meets the filters.
        weight: reweight: weight of the rows that are meant, at least 0; 0 hides a row from search.
        prune: reweight: multiply weights by the factor of soft or hard pruning (arXiv 2408.08172).
        to: migrate: encoder of the new memory.
        fit: migrate: how rows whose image is gone are moved: ridge or orthogonal.
        data_root: build, search, explain, migrate: folder that holds the data sets; default: the environment
            variable KC_DATA.
    """

    action: str
    memory: Path
    first: str | None = None
    second: str | None = None
    ids: str | None = None
    class_: str | None = None
    source: str | None = None
    task: str | None = None
    sample: str | None = None
    at: int | None = None
    absent: str | None = None
    benchmark: str | None = None
    k: int | None = None
    point: str | None = None
    encoder: str | None = None
    dry_run: bool = False
    drop_history: bool = False
    strict: bool = False
    data_root: Path | None = None
    keys: str | None = None
    proposals: str | None = None
    purity: float = 0.5
    images: Path | None = None
    names: Path | None = None
    fallback: Path | None = None
    limit_images: int | None = None
    weight: float | None = None
    prune: str | None = None
    to: str | None = None
    fit: str = "ridge"


POSITIONAL = ("action", "memory", "first", "second")
"""Fields that are given by their place, the last two where the action takes them."""


def main(arguments: Sequence[str], prog: str) -> int:
    """`kc memory`. Returns the exit status, 1 where erased rows are found (--strict: none to take)."""
    p = parser(prog, MemoryConfig, "Look into a memory, move it, and take rows out of it.", POSITIONAL)
    config = MemoryConfig(**values_of(p, arguments))
    from kc.commands.memory import run_memory

    return run_memory(config)
