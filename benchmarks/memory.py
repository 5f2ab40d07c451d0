"""How fast the memory is, against raw FAISS, the machine's peaks and its disk, all in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.memory                  # 100,000 and 1,000,000 rows of 768 values
    OMP_NUM_THREADS=1 python -m benchmarks.memory --quick          # small, a minute
    OMP_NUM_THREADS=1 python -m benchmarks.memory --rows 10000000 --dim 96 --only build --only approximate

Compared times are taken in turn; shown are the shortest of each and the median of the ratios. The load of the machine
is shown beside them: on a machine that others use, ratios of short calls spread by a tenth.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from benchmarks.command import start
from benchmarks.machine import REST, describe, least, pairs, reading, rounds, seconds, sgemm, write_rate
from benchmarks.synthetic import CHUNK, Synthetic
from kc.memory.disk import Memory
from kc.memory.search.exact import Search
from kc.memory.search.planner import SearchOptions
from kc.memory.search.threads import faiss
from kc.memory.vote.fusion import knn_clip
from kc.memory.vote.votes import vote
from kc.process import blas_from
from kc.spec import Count

Part = Literal["build", "exact", "filter", "retire", "vote", "approximate", "gpu"]
PARTS: tuple[Part, ...] = get_args(Part)
COMMIT_ROWS = 16 * CHUNK


@dataclass(frozen=True)
class Figure:
    """One line of the table; `goal` is an upper (<=) or lower (>=) bound, or empty."""

    what: str
    value: float
    unit: str
    goal: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if not self.goal:
            return None
        bound = float(self.goal[2:])
        return self.value <= bound if self.goal.startswith("<=") else self.value >= bound


def fill(data: Synthetic, root: Path) -> float:
    """Add and commit, chunk by chunk; seconds without those of making the data."""
    spent = 0.0
    with Memory.create(root, dim=data.dim, fingerprint="synthetic") as memory:
        for number, rows in enumerate(data.as_rows()):
            task = number * CHUNK // COMMIT_ROWS
            spent += seconds(lambda rows=rows, task=task: memory.add(rows, task))  # type: ignore[misc]
            if (number + 1) * CHUNK % COMMIT_ROWS == 0 or (number + 1) * CHUNK >= data.rows:
                spent += seconds(lambda task=task: memory.commit(task))  # type: ignore[misc]
    return spent


def build(data: Synthetic, root: Path, machine: dict[str, Any], quick: bool) -> Iterator[Figure]:
    """Add and commit; opening. Small memories are built several times, in turn with what they are compared with."""
    small = data.rows <= 200_000
    # As many bytes, before and after: a disk writes gigabytes at another rate than what its cache holds.
    amount = 2**24 if quick else max(2**28, 4 * data.rows * data.dim)
    spent: list[float] = []
    rates = [machine["write_mb_s"] * 1e6] if small else [write_rate(root.parent, amount, 1)]
    for _ in range(5 if small else 1):
        shutil.rmtree(root, ignore_errors=True)
        spent.append(fill(data, root))
        rates.append(write_rate(root.parent, amount, 3 if small else 1))
    size = sum(p.stat().st_size for p in root.rglob("*") if p.is_file())
    note = f"{min(spent):.2f} s; the disk's rate was {max(rates) / 1e6:.0f} MB/s"
    yield Figure("add + commit, share of the disk's write rate", size / min(spent) / max(rates), "", ">=0.5", note)
    yield Figure("open to read", 1e3 * least(lambda: Memory.open(root)), "ms", "<=10")
    yield Figure("open to write", 1e3 * least(lambda: Memory.open(root, write=True).close()), "ms", "<=10")
    memory = Memory.open(root)
    memory.configure(SearchOptions(index="exact"))
    query = data.queries(1)
    yield Figure("first search: every checksum", seconds(lambda: memory.search(query, 1)), "s")


def exact(data: Synthetic, memory: Memory, quick: bool) -> Iterator[Figure]:
    """Against FAISS on one array in RAM, with BLAS."""
    keys = np.concatenate([s.vectors for s in memory._view().columns.segments])
    memory.configure(SearchOptions(index="exact"))
    large = len(keys) > 200_000
    multiply, read = sgemm(512 if quick else 2048), reading(2**26 if quick else 2**29)
    for n_queries, k in ((1, 16), (16, 16), (16, 100), (100, 16), (100, 100), (1000, 100)):
        if large and n_queries == 1000:
            continue
        queries = data.queries(n_queries)

        def raw(queries: Any = queries, k: int = k) -> None:
            with blas_from(faiss, 4 * data.dim if len(queries) > 1 else 2**31 - 1):
                faiss.knn(queries, keys, k, metric=faiss.METRIC_INNER_PRODUCT)

        def ours(queries: Any = queries, k: int = k) -> None:
            memory.search(queries, k)

        ours()
        times = 3 if quick else max(3, min(15, 15_000_000 // (len(keys) * n_queries)))
        peak_call, peak_work = read if n_queries == 1 else multiply
        theirs, taken, alone = rounds((raw, ours, peak_call), times, REST)
        a, b = taken.min(), theirs.min()
        ratio = float(np.median(taken / theirs))
        note = f"{1e3 * a / n_queries:.3g} ms a query; raw {1e3 * b / n_queries:.3g}; least / least {a / b:.3f}"
        what = f"exact, batch {n_queries}, k {k}"
        yield Figure(f"{what}: x raw FAISS", ratio, "x", "<=1.1", note)
        # The peak is taken in the same rounds: what others do on the machine slows both.
        work = keys.nbytes if n_queries == 1 else 2 * keys.size * n_queries
        share = work / peak_work * float(alone.min() / a)
        name = "read bandwidth" if n_queries == 1 else "the sgemm peak"
        yield Figure(
            f"{what}: share of {name}", share, "", ">=0.8", f"median {work / peak_work * np.median(alone / taken):.2f}"
        )


def filtered(data: Synthetic, memory: Memory) -> Iterator[Figure]:
    """Classes of about 2, 15 and 50 % of the rows, in no order on disk."""
    memory.configure(SearchOptions(index="exact"))
    count = np.bincount(memory._view().class_id, minlength=data.classes) / len(memory)
    for wanted in (0.02, 0.15, 0.5):
        chosen: list[int] = []
        for c in range(data.classes - 1, -1, -1) if wanted < 0.5 else range(data.classes):
            if count[chosen].sum() < wanted:
                chosen.append(c)
        share = float(count[chosen].sum())
        for n_queries in (1, 100):
            queries = data.queries(n_queries)
            first = seconds(lambda q=queries, c=chosen: memory.search(q, 16, classes=c))  # type: ignore[misc]
            a, b, ratio = pairs(
                lambda q=queries, c=chosen: memory.search(q, 16, classes=c),  # type: ignore[misc]
                lambda q=queries: memory.search(q, 16),  # type: ignore[misc]
                5,
            )
            what = f"class filter, {100 * share:.0f} % of the rows, batch {n_queries}"
            note = f"{1e3 * a:.3g} ms, the first {1e3 * first:.3g}; unfiltered {1e3 * b:.3g}"
            yield Figure(f"{what}: x share x unfiltered", ratio / share, "x", "<=1.3", note)
            yield Figure(f"{what}: x unfiltered", ratio, "x", "<=1.1")


def retire(data: Synthetic, memory: Memory) -> Iterator[Figure]:
    """Retire 1000 rows, then a class; then search with holes everywhere."""
    spent: list[float] = []
    fsync = os.fsync

    def timed(fd: int) -> None:
        spent.append(seconds(lambda: fsync(fd)))

    memory.configure(SearchOptions(index="exact"))
    queries = data.queries(100)
    memory.search(queries, 16)
    whole = least(lambda: memory.search(queries, 16), 3)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(memory), 1000, replace=False)
    os.fsync = timed
    try:
        took = seconds(lambda: memory.remove(chosen))
        note = f"{1e3 * took:.3g} ms with {len(spent)} fsyncs"
        yield Figure("retire 1000 ids, without fsync", 1e3 * (took - sum(spent)), "ms", "<=10", note)
        spent.clear()
        took = seconds(lambda: memory.remove(class_id=[data.classes // 2]))
        note = f"{1e3 * took:.3g} ms with {len(spent)} fsyncs"
        yield Figure("retire a class, without fsync", 1e3 * (took - sum(spent)), "ms", "<=10", note)
    finally:
        os.fsync = fsync
    memory.search(queries, 16)
    holes = least(lambda: memory.search(queries, 16), 3)
    yield Figure("search with 1000 holes, batch 100: x before", holes / whole, "x", "<=1.1")


def voting(data: Synthetic, memory: Memory) -> Iterator[Figure]:
    """Vote and fusion beside the exact search they follow."""
    memory.configure(SearchOptions(index="exact"))
    queries = data.queries(100)
    found = memory.search(queries, 100)
    base = torch.full((100, 150), 1 / 150, dtype=torch.float64)

    def decide() -> None:
        votes = vote(found, tuple(range(150)), kind="softmax", tau=0.07, rank_offset=2.0)
        total = votes.sum(1, keepdim=True)
        knn_clip(base, votes / total.clamp_min(1e-30), total[:, 0] > 0, lam=0.7, threshold=1.01)

    decide()
    a, b, ratio = pairs(decide, lambda: memory.search(queries, 100), 5)
    note = f"{1e3 * a:.3g} ms beside {1e3 * b:.3g}"
    yield Figure("vote + fuse, 100 queries x 150 classes x k 100: share of search", ratio, "", "<=0.05", note)


def approximate(data: Synthetic, memory: Memory, quick: bool) -> Iterator[Figure]:
    """Build, recall, speed and RAM of the automatic index."""
    rows = len(memory)
    n_truth = 100 if rows > 2_000_000 or quick else 500
    queries = data.queries(n_truth + 100)
    view = memory._view()
    plain = Search(view, view.visible)
    truth = plain(queries[:n_truth], 16, data.dim).id
    timed = queries[n_truth:]
    memory.configure(SearchOptions(exact_rows=1000 if quick else 200_000))
    before = resident()
    wall, cpu = time.perf_counter(), time.process_time()
    memory.search(timed[:1], 16)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    stats = memory.stats()
    note = (
        f"{wall:.0f} s; training, filling, probing, storing; anonymous memory grew by {(resident() - before) >> 20} MiB"
    )
    yield Figure("index: build", cpu, "core-s", "<=120" if rows <= 1_000_000 else "", note)
    yield Figure("index: recall@16 on its own probe", stats["index"]["recall"], "", ">=0.99", str(stats["index"]))
    found = memory.search(queries[:n_truth], 16).id
    recall = float(np.mean([len(np.intersect1d(a, b)) / 16 for a, b in zip(found, truth, strict=True)]))
    yield Figure(
        "index: recall@16 on rows it never saw", recall, "", ">=0.99", f"plan {stats['plan']}: {stats['reason']}"
    )
    (path,) = (memory.path / "cache").glob("*/*.faiss")
    share = path.stat().st_size / (rows * data.dim * 4)
    yield Figure("index: RAM, share of float32", share, "", "<=0.05", f"{path.stat().st_size / rows:.0f} bytes a row")
    a, b, ratio = pairs(lambda: memory.search(timed, 16), lambda: plain(timed, 16, data.dim), 3 if quick else 5)
    note = f"{10 * a:.3g} ms a query; exact {10 * b:.3g}; least / least {b / a:.1f}"
    yield Figure("index: times faster than exact, batch 100", 1 / ratio, "x", ">=20", note)
    a, b, ratio = pairs(lambda: memory.search(timed[:1], 16), lambda: plain(timed[:1], 16, data.dim), 5)
    yield Figure(
        "index: times faster than exact, batch 1", 1 / ratio, "x", "", f"{1e3 * a:.3g} ms; exact {1e3 * b:.3g}"
    )
    yield Figure("peak resident memory of this process so far", peak() / 2**30, "GiB")


def gpu(data: Synthetic, memory: Memory) -> Iterator[Figure]:
    """Only where there is one."""
    memory.configure(SearchOptions(device="cuda"))
    n_bytes = 2 * len(memory) * data.dim
    source = torch.empty(n_bytes, dtype=torch.uint8, device="cuda")
    copy = 2 * n_bytes / on_gpu(source.clone)
    del source
    square = torch.ones(8192, 8192, dtype=torch.bfloat16, device="cuda")
    flops = 2 * 8192**3 / on_gpu(lambda: square @ square)
    for n_queries in (1, 256, 1024):
        queries = data.queries(n_queries)
        memory.search(queries, 16)
        search = next(reversed(memory._searches.values()))
        fast = np.ascontiguousarray(queries)
        short = on_gpu(lambda fast=fast, search=search: search._short_list(fast, 40))  # type: ignore[misc]
        whole = least(lambda q=queries: memory.search(q, 16))  # type: ignore[misc]
        note = f"{1e3 * short:.3g} ms; with rescoring on the CPU {1e3 * whole:.3g}"
        if n_queries == 1:
            yield Figure("GPU, batch 1: share of copy bandwidth", n_bytes / short / copy, "", ">=0.7", note)
        else:
            share = n_bytes * n_queries / short / flops
            yield Figure(f"GPU, batch {n_queries}: share of the bf16 peak", share, "", ">=0.25", note)


def on_gpu(call: Callable[[], object]) -> float:
    """Shortest seconds of a call, with the device waited for."""

    def waited() -> None:
        call()
        torch.cuda.synchronize()

    waited()
    return least(waited, 10)


def peak() -> int:
    """Largest resident memory of this process so far, bytes (mapped rows count while they are in RAM)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> int:
    """Anonymous resident memory of this process, bytes: what mapped files are not."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell RssAnon")


def measure(
    rows: int, dim: int, folder: Path, parts: Sequence[str], quick: bool, machine: dict[str, Any]
) -> list[Figure]:
    """All figures of one size."""
    data = Synthetic(rows, dim)
    root = folder / f"{rows}x{dim}"
    figures: list[Figure] = []

    def keep(found: Iterator[Figure]) -> None:
        for figure in found:
            figures.append(figure)
            met = {None: " ", True: "+", False: "-"}[figure.met]
            print(
                f"{met} {figure.what:<62} {figure.value:9.3f} {figure.unit:<6} {figure.goal:<7} {figure.note}",
                flush=True,
            )
        gc.collect()

    print(f"-- {rows:,} rows x {dim}, load {os.getloadavg()[0]:.1f}")
    keep(build(data, root, machine, quick))
    memory = Memory.open(root, write=True)  # only a writer stores an index
    if "exact" in parts:
        keep(exact(data, memory, quick))
    if "vote" in parts:
        keep(voting(data, memory))
    if "filter" in parts:
        keep(filtered(data, memory))
    if "approximate" in parts and (rows > 200_000 or quick):
        keep(approximate(data, memory, quick))
    if "gpu" in parts and torch.cuda.is_available():
        keep(gpu(data, memory))
    if "retire" in parts:
        keep(retire(data, memory))
    memory.close()
    shutil.rmtree(root)
    return figures


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time the memory beside raw FAISS and the machine's peaks.

    Args:
        rows: Rows of the memory; may be given several times; default: 100000 and 1000000.
        dim: Values of a key.
        only: Part that is measured; may be given several times; default: all.
        folder: Where the memory is built (removed afterwards).
        quick: Small, a minute.
        json: Write the figures to this file.
    """

    rows: tuple[Count, ...] = ()
    dim: Count = 768
    only: tuple[Part, ...] = ()
    folder: Path | None = None
    quick: bool = False
    json: Path | None = None


def run(config: Config) -> int:
    """Measure, print, write. Returns the exit status."""
    parts = config.only or PARTS
    rows, dim = ((20_000,), 128) if config.quick else (config.rows or (100_000, 1_000_000), config.dim)
    folder = Path(tempfile.mkdtemp(prefix="kc-bench-", dir=config.folder))
    try:
        machine = describe(folder, config.quick)
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in machine.items()))
        if "gpu" in parts and not torch.cuda.is_available():
            print("no GPU here: its figures are left out")
        sizes = []
        for n in rows:
            figures = measure(n, dim, folder, parts, config.quick, machine)
            sizes.append({"rows": n, "dim": dim, "figures": [{**asdict(f), "met": f.met} for f in figures]})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if config.json:
        config.json.write_text(json.dumps({"machine": machine, "sizes": sizes}, indent=1))
    return 0


if __name__ == "__main__":
    start(run, "memory")
