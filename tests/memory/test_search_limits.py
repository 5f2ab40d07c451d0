"""Search where RAM is short, threads are counted, and processes are many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from kc.memory.disk import Memory
from kc.memory.search.planner import SearchOptions
from kc.types import Rows

DIM = 512
PER_TASK = 8192
TASKS = 6

SEARCHER = """
import os, resource, sys
os.environ["KC_CACHE_BYTES"] = "0"
import faiss, numpy as np
from kc.memory.search import blocks, index as indexes
from kc.memory.search.planner import SearchOptions
from kc.memory.disk import Memory
from kc.process import blas_from

memory = Memory.open(sys.argv[1])
kind, filtered = sys.argv[2], sys.argv[3] == "filtered"
blocks.BLOCK_ROWS, indexes.TRAIN_BYTES = 2048, 2**23
memory.configure(SearchOptions(index=kind, exact_rows=10))
queries = np.eye(4, 512, dtype=np.float32)
# Libraries take their buffers before the budget is set.
warm = np.random.default_rng(0).normal(size=(3000, 256)).astype(np.float32)
warm @ warm.T, np.linalg.eigh(np.eye(99))
with blas_from(faiss, 1):
    faiss.knn(warm, warm, 1)
index = faiss.index_factory(256, "IVF4,PQ256x4fs")
index.train(warm)
used = int(open("/proc/self/statm").read().split()[5]) * 4096
# Private writable memory only: mapped segments are the kernel's to drop. A third of the vectors' size.
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[4]),) * 2)
try:
    np.concatenate([s.vectors for s in memory._segments.values()])
    print("no limit")
except MemoryError:
    found = memory.search(queries, 3, classes=[0, 2] if filtered else None)
    print(found.id.tolist())
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 MB of vectors in six segments; a row's class alternates, so no filter leaves a run."""
    path = tmp_path_factory.mktemp("large") / "m"
    rng = np.random.default_rng(0)
    with Memory.create(path, dim=DIM, fingerprint="f") as memory:
        for t in range(TASKS):
            keys = rng.normal(size=(PER_TASK, DIM)).astype(np.float32)
            keys /= np.linalg.norm(keys, axis=1, keepdims=True)
            n = np.arange(PER_TASK)
            memory.add(Rows(keys, n % 3, tuple(f"{t}-{i}" for i in n), np.zeros(PER_TASK, np.int64)), t)
            memory.commit(t)
    return path


@pytest.mark.parametrize(("kind", "filtered"), [("exact", "all"), ("exact", "filtered"), ("ivf-pq", "all")])
def test_a_memory_larger_than_ram_is_searched(large: Path, kind: str, filtered: str) -> None:
    budget = TASKS * PER_TASK * DIM * 4 // 3
    run = subprocess.run(
        [sys.executable, "-c", SEARCHER, str(large), kind, filtered, str(budget)],
        capture_output=True,
        text=True,
        timeout=120,
        # A thread's stack and buffers have one size for any memory; beside these 100 MB they are as large as the rows.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    with Memory.open(large) as memory:
        memory.configure(SearchOptions(index="exact"))
        classes = [0, 2] if filtered == "filtered" else None
        truth = memory.search(np.eye(4, DIM, dtype=np.float32), 3, classes=classes)
        assert run.stdout.strip() == str(truth.id.tolist())


class Searching(Dataset[np.ndarray]):
    """Searches where the worker is."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> np.ndarray:
        assert self.memory.options.index == "ivf-sq8"
        return self.memory.search(np.eye(DIM, dtype=np.float32)[i : i + 1], 4).id[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_searching_in_dataloader_workers(tmp_path: Path, start: str) -> None:
    """After the parent has searched: forked workers must not wait for its threads, spawned ones open the memory."""
    rng = np.random.default_rng(1)
    keys = rng.normal(size=(900, DIM)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    with Memory.create(tmp_path / "m", dim=DIM, fingerprint="f") as memory:
        memory.add(Rows(keys, np.zeros(900, np.int64), tuple(map(str, range(900))), np.zeros(900, np.int64)), 0)
        memory.commit(0)
        memory.configure(SearchOptions(index="ivf-sq8", exact_rows=100))
        truth = memory.search(np.eye(DIM, dtype=np.float32)[:6], 4).id
        loader = DataLoader(Searching(memory), batch_size=3, num_workers=1, multiprocessing_context=start, timeout=60)
        found = np.concatenate([batch.numpy() for batch in loader])
        assert np.array_equal(found, truth)


def test_threads_are_respected(tmp_path: Path) -> None:
    """One thread asked for is one thread used: the process starts no other."""
    code = """
import os, sys
import numpy as np
from kc.memory.search.planner import SearchOptions
from kc.memory.disk import Memory
memory = Memory.open(sys.argv[1])
rng = np.random.default_rng(0)
for kind in ("exact", "ivf-sq8"):
    memory.configure(SearchOptions(index=kind, exact_rows=10))
    memory.search(rng.normal(size=(600, 512)), 5)
    memory.search(rng.normal(size=(600, 512)), 5, classes=[0])
print(len(os.listdir("/proc/self/task")))
"""
    with Memory.create(tmp_path / "m", dim=DIM, fingerprint="f") as memory:
        keys = np.eye(DIM, dtype=np.float32)
        n = np.arange(DIM)
        memory.add(Rows(keys, n % 2, tuple(map(str, n)), n * 0), 0)
        memory.commit(0)
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **threads},
    )
    assert run.stdout.strip() == "1", run.stderr
