"""Where the time of one image goes beside the networks: 100 proposals of 640 x 480 against 100,000 rows.

    OMP_NUM_THREADS=2 python -m benchmarks.segment                 # 100,000 rows of 472 values, 133 names
    OMP_NUM_THREADS=2 python -m benchmarks.segment --quick         # small, seconds
    OMP_NUM_THREADS=2 python -m benchmarks.segment --index hnsw    # through an index
    OMP_NUM_THREADS=2 python -m benchmarks.segment --json FILE

The networks (encoder, base, proposer) are left out: their outputs are made up here, with the shapes of the default
encoder and 100 masks that overlap. Shown is the shortest of several calls of each stage, and of all together; beside
it the least time on the processors, of all threads, which others on the machine lengthen little. A variable
OPENBLAS_CORETYPE that names an old processor halves the speed of the search: it is shown where it is set.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from benchmarks.command import start
from benchmarks.machine import describe
from benchmarks.synthetic import Synthetic
from kc.memory.disk import Memory
from kc.memory.search.planner import IndexKind, SearchOptions
from kc.memory.vote.fusion import fuse_known_names, knn_clip, restrict_to_known, retrieval_logits
from kc.process import CORE_TYPE
from kc.proposals.merge import paint, semantic_to_panoptic
from kc.proposals.pooling import pool
from kc.spec import Count
from kc.types import BoolArray, Segments

GOAL_MS = 50.0


@dataclass(frozen=True)
class Stage:
    """One stage: milliseconds, milliseconds on the processors (of all threads), and the share of these."""

    name: str
    milliseconds: float
    cpu_milliseconds: float
    share: float


def masks(n: int, size: tuple[int, int], seed: int = 0) -> BoolArray:
    """`n` ellipses (N, H, W) that overlap, of a twentieth to a third of the image's sides."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0, height, n), rng.uniform(0, width, n)
    ry, rx = rng.uniform(height / 20, height / 3, n), rng.uniform(width / 20, width / 3, n)
    found = [((y - a) / c) ** 2 + ((x - b) / d) ** 2 < 1 for a, b, c, d in zip(cy, cx, ry, rx, strict=True)]
    result: BoolArray = np.stack(found)
    return result


def stages(data: Synthetic, memory: Memory, proposals: int, names: int, k: int) -> dict[str, Callable[[], object]]:
    """Every stage as a call, in order; each reads what the one before it gives."""
    rng = np.random.default_rng(1)
    size = (480, 640)
    segments = Segments(size, rng.random(proposals).astype(np.float32), masks=masks(proposals, size))
    features = torch.from_numpy(rng.random((data.dim, size[0] // 8, size[1] // 8), dtype=np.float32))
    own = torch.from_numpy(rng.dirichlet(np.ones(names), proposals))
    ids = tuple(range(names))
    # Keys of noise have no neighbours worth the name: the search is asked for keys like those stored.
    keys = data.queries(proposals)
    known = torch.ones(names, dtype=torch.bool)
    neighbours = memory.search(keys, k)
    p_ret, has = retrieval_logits(neighbours, ids)
    scores = fuse_known_names(knn_clip(restrict_to_known(own, known), p_ret, has, 0.7, 1.01), own, known)
    labels = scores.argmax(1).numpy()
    semantic = paint(segments, labels)
    return {
        "pool keys": lambda: pool(features, segments),
        "search": lambda: memory.search(keys, k),
        "retrieval logits": lambda: retrieval_logits(neighbours, ids),
        "fuse": lambda: fuse_known_names(knn_clip(restrict_to_known(own, known), p_ret, has, 0.7, 1.01), own, known),
        "paint": lambda: paint(segments, labels),
        "instances": lambda: semantic_to_panoptic(semantic, range(names // 2)),
    }


def timed(call: Callable[[], object], times: int) -> tuple[float, float]:
    """Milliseconds of a call, and those on the processors: the least of several calls, each for itself."""
    taken = []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    return 1000 * min(wall for wall, _ in taken), 1000 * min(cpu for _, cpu in taken)


def measure(
    rows: int, dim: int, proposals: int, names: int, k: int, times: int, folder: Path, index: IndexKind
) -> list[Stage]:
    """Every stage, the slowest last call never counted; the last entry is all of them in one go."""
    data = Synthetic(rows=rows, dim=dim, classes=names)
    with Memory.create(folder / "memory", dim=dim, fingerprint="synthetic") as memory:
        for chunk in data.as_rows():
            memory.add(chunk, 0)
        memory.commit(0)
        if index != "exact":  # by itself the memory searches so few rows exactly
            memory.configure(SearchOptions(index=index, exact_rows=16))
        calls = stages(data, memory, proposals, names, k)
        for call in calls.values():
            call()
        taken = {name: timed(call, times) for name, call in calls.items()}
        whole = timed(lambda: [call() for call in calls.values()], times)
    total = sum(cpu for _, cpu in taken.values())
    return [*(Stage(name, wall, cpu, cpu / total) for name, (wall, cpu) in taken.items()), Stage("all", *whole, 1.0)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time the parts of answering one image beside the networks.

    Args:
        rows: Rows of the memory.
        dim: Values of a key; default: 472, those of the default encoder.
        proposals: Proposals of the image.
        names: Names that are asked for.
        k: Neighbours.
        index: How the memory is searched.
        times: Calls of each stage.
        quick: Small, seconds.
        json: Write the figures to this file.
    """

    rows: Count = 100_000
    dim: Count = 472
    proposals: Count = 100
    names: Count = 133
    k: Count = 16
    index: Literal["exact", "hnsw", "ivf-sq8", "ivf-pq"] = "exact"
    times: Count = 15
    quick: bool = False
    json: Path | None = None


def run(config: Config) -> int:
    """Measure, print, write. Returns the exit status."""
    rows, dim, times = (2_000, 64, 3) if config.quick else (config.rows, config.dim, config.times)
    folder = Path(tempfile.mkdtemp(prefix="kc-segment-"))
    try:
        machine = describe(folder, config.quick)
        found = measure(rows, dim, config.proposals, config.names, config.k, times, folder, config.index)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in machine.items()))
    print(f"one image of 640 x 480, {config.proposals} proposals, {rows:,} rows of {dim} values, {config.names} names")
    print(f"search: {config.index}" + (f"  {CORE_TYPE} {os.environ[CORE_TYPE]}" if CORE_TYPE in os.environ else ""))
    for stage in found:
        times_of = f"{stage.milliseconds:>9.2f} ms{stage.cpu_milliseconds:>9.2f} ms CPU"
        print(f"{stage.name:<18}{times_of}{100 * stage.share:>7.1f} %")
    met = found[-1].milliseconds <= GOAL_MS
    print(
        f"goal: all under {GOAL_MS:g} ms: {'met' if met else 'NOT MET'}"
        + (" (quick: not the goal's size)" if config.quick else "")
    )
    if config.json:
        content = {
            "machine": machine,
            "rows": rows,
            "dim": dim,
            "index": config.index,
            "stages": [asdict(s) for s in found],
            "met": met,
        }
        config.json.write_text(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    start(run, "segment")
