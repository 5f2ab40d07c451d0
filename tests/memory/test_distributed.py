"""Two processes build one memory: rows of both, once, in the order of a single process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DistributedSampler

from kc.errors import RunError
from kc.memory.disk import Memory
from kc.memory.store import distributed
from kc.memory.store.distributed import gather_rows, on_rank_0, process_rank
from kc.types import Rows

DIM, SAMPLES, BATCH = 6, 11, 2


def sample(i: int) -> Rows:
    """One or two regions of sample `i`."""
    n = 1 + i % 2
    keys = np.random.default_rng(i).normal(size=(n, DIM))
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    weight = np.full(n, 0.5 + i, np.float32) if i % 3 else None
    return Rows(keys.astype(np.float32), np.full(n, i), (f"s{i}\n",) * n, np.arange(n), f"源{i % 2}", weight)


def batched(indices: list[int]) -> list[list[Rows]]:
    return [[sample(i) for i in indices[first : first + BATCH]] for first in range(0, len(indices), BATCH)]


def build(rank: int, path: Path, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    assert process_rank() == rank
    distributed.MESSAGE_BYTES = 1000  # several messages a batch
    order = DistributedSampler(range(SAMPLES), num_replicas=2, rank=rank, shuffle=False)  # type: ignore[arg-type]
    memory = Memory.create(path, dim=DIM, fingerprint="f") if rank == 0 else None
    added = 0
    for batch in batched(list(order)):
        gathered = gather_rows(batch)
        assert rank == 0 or not gathered
        for rows in gathered:
            assert memory is not None
            added += memory.add(rows, 0)
    assert gather_rows([]) == []
    committed = on_rank_0(lambda: memory.commit(0) if memory is not None else -1)
    memory = memory or Memory.open(path)  # the others find it committed
    assert committed == len(memory) == sum(1 + i % 2 for i in range(SAMPLES))
    with pytest.raises(ValueError if rank == 0 else RunError, match="disk on fire"):
        on_rank_0(fail)
    dist.barrier()
    memory.close()
    dist.destroy_process_group()


def fail() -> int:
    raise ValueError("disk on fire")


def test_two_processes_build_the_memory_of_one(tmp_path: Path) -> None:
    """Eleven samples for two processes: the sampler deals one twice, and it is stored once."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(build, (tmp_path / "two", port), nprocs=2)
    with Memory.create(tmp_path / "one", dim=DIM, fingerprint="f") as one:
        for i in range(SAMPLES):
            one.add(sample(i), 0)
        one.commit(0)
        two = Memory.open(tmp_path / "two")
        two.verify()
        ids = one.ids()
        assert np.array_equal(two.ids(), ids)
        assert np.array_equal(two.keys(ids), one.keys(ids))
        a, b = one.rows_of(ids), two.rows_of(ids)
        assert (a.sample_id, a.source) == (b.sample_id, b.source)
        for name in ("class_id", "weight", "segment", "task"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_the_rank_before_processes_are_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert process_rank() == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert process_rank() == 1
    monkeypatch.setenv("RANK", "5")
    assert process_rank() == 5
