"""Shards as a stream: each sample once an epoch for any number of nodes and workers, and what a task reads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from kc.data.manifest import Manifest
from kc.data.shards.plan import TaskBytes, blocks_of, task_bytes
from kc.data.shards.reader import ShardReader
from kc.data.shards.store import FolderStore
from kc.data.shards.stream import ShardStream
from kc.data.shards.write import write_shards
from kc.errors import DataError
from kc.types import Sample

N = 53


class Numbers:
    """N images of one pixel, i % 5 their class: what a shard holds can be told from the label."""

    def __init__(self, manifest: Manifest) -> None:
        self.ids = manifest.class_ids()

    sample_ids = [f"train/{i}" for i in range(N)]  # noqa: RUF012
    class_table = np.arange(N)[:, None] // 11 == np.arange(5)

    def __len__(self) -> int:
        return N

    def read(self, index: int) -> Sample:
        return Sample(f"train/{index}", np.full((1, 1, 3), index, np.uint8), label=index // 11)


@pytest.fixture
def reader(tmp_path: Path, tiny_folder: SimpleNamespace) -> ShardReader:
    """53 samples of 5 classes of 11 (the last has 9), in shards of 10."""
    content = {**tiny_folder.content, "classes": [{"id": i, "name": f"c{i}"} for i in range(5)],
               "source": {"reader": "shards"}, "splits": {"train": {"index": "train.index.npz"}}}  # fmt: skip
    manifest = Manifest.model_validate(content)
    store = FolderStore(tmp_path / "s")
    write_shards(manifest, "train", Numbers(manifest), store, "", per_shard=10)  # type: ignore[arg-type]
    return ShardReader.open(manifest, "train", store)


def pixel(epoch: int, index: int, sample: Sample) -> tuple[int, int, int]:
    """What a stream makes of a sample: epoch, index, its pixel."""
    return epoch, index, int(sample.image[0, 0, 0])


def epoch_of(reader: ShardReader, nodes: int, workers: int, epoch: int = 0, **more: Any) -> list[list[int]]:
    """The samples that each node sees."""
    seen = []
    for node in range(nodes):
        stream = ShardStream(reader, pixel, node=node, nodes=nodes, **more)
        stream.set_epoch(epoch)
        if workers < 2:
            found = list(stream)
        else:
            found = [
                i for batch in DataLoader(stream, batch_size=4, num_workers=workers, collate_fn=list) for i in batch
            ]
        assert len(found) == len(stream)
        assert all((e, i) == (epoch, value) for e, i, value in found)
        seen.append([i for _, i, _ in found])
    return seen


@pytest.mark.parametrize("nodes", [1, 2, 3, 7, 60])
@pytest.mark.parametrize("buffer", [1, 8])
def test_each_sample_once_an_epoch_on_any_number_of_nodes(reader: ShardReader, nodes: int, buffer: int) -> None:
    for epoch in (0, 1):
        seen = epoch_of(reader, nodes, 1, epoch, buffer=buffer)
        assert sorted(i for part in seen for i in part) == list(range(N))
        assert max(map(len, seen)) - min(map(len, seen)) <= 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("nodes", "workers"), [(1, 2), (2, 3)])
def test_each_sample_once_an_epoch_with_any_number_of_workers(reader: ShardReader, nodes: int, workers: int) -> None:
    seen = epoch_of(reader, nodes, workers, buffer=5)
    assert sorted(i for part in seen for i in part) == list(range(N))


@pytest.mark.parametrize("workers", range(1, 9))
def test_workers_divide_a_node_exactly(reader: ShardReader, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for worker in range(workers):
        info = SimpleNamespace(id=worker, num_workers=workers)
        monkeypatch.setattr("kc.data.shards.stream.get_worker_info", lambda info=info: info)
        for node in range(3):
            seen += [i for _, i, _ in ShardStream(reader, pixel, buffer=4, node=node, nodes=3)]
    assert sorted(seen) == list(range(N))


def test_the_order_follows_from_the_seed(reader: ShardReader) -> None:
    one = epoch_of(reader, 2, 1, buffer=8, seed=3)
    assert one == epoch_of(reader, 2, 1, buffer=8, seed=3)
    assert one != epoch_of(reader, 2, 1, buffer=8, seed=4)
    assert one != epoch_of(reader, 2, 1, epoch=1, buffer=8, seed=3)
    assert epoch_of(reader, 1, 1, buffer=1) == [list(range(N))]
    assert epoch_of(reader, 1, 1, buffer=N)[0] != sorted(epoch_of(reader, 1, 1, buffer=N)[0])


def test_only_the_samples_of_a_task(reader: ShardReader) -> None:
    rows = np.flatnonzero(reader.class_table[:, 2])
    seen = epoch_of(reader, 2, 1, rows=rows, class_ids=(2,), buffer=3)
    assert sorted(i for part in seen for i in part) == rows.tolist() == list(range(22, 33))


def test_the_way_that_reads_less_is_taken(reader: ShardReader) -> None:
    """Class 2 lies in shards 2 and 3 (samples 22 to 32): two whole shards, or blocks of 11 samples and the index."""
    index = reader.index
    rows = np.arange(22, 33)
    found = task_bytes(index, rows, (2,), block=512)
    assert found.by_filter == int(index.shard_bytes[[2, 3]].sum()) + index.counts.nbytes
    assert found.by_index == int(index.size[rows].sum()) + index.n_bytes  # members fill whole blocks of 512
    assert found.chosen == ("index" if found.by_index < found.by_filter else "filter")
    everything = task_bytes(index, np.arange(N), range(5), block=1 << 20)
    assert everything.by_index == 6 * (1 << 20) + index.n_bytes
    assert everything.chosen == "filter"
    assert TaskBytes(5, 9).chosen == "index"
    assert TaskBytes(9, 5).bytes == 5


def test_blocks_by_hand(reader: ShardReader) -> None:
    """Against a set of (shard, block) of every byte."""
    index, rng = reader.index, np.random.default_rng(0)
    for block in (512, 1000, 4096, 10**6):
        for _ in range(5):
            rows = np.flatnonzero(rng.random(N) < 0.4)
            naive = {
                (int(index.shard[r]), b)
                for r in rows
                for b in range(int(index.offset[r]) // block, int(index.offset[r] + index.size[r] - 1) // block + 1)
            }
            assert blocks_of(index, rows, block) == len(naive)
    assert blocks_of(index, np.empty(0, np.int64), 512) == 0


def test_bytes_that_are_really_read(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """By index a stream reads no byte of a sample that is not its own."""
    read: list[int] = []
    inner = FolderStore.read

    def counting(self: FolderStore, name: str, offset: int, size: int) -> bytes:
        read.append(size)
        return inner(self, name, offset, size)

    monkeypatch.setattr(FolderStore, "read", counting)
    monkeypatch.setattr(FolderStore, "block", 1)
    rows = np.array([0, 1, 2, 30, 52])
    stream = ShardStream(reader, pixel, rows=rows, class_ids=(0, 2, 4), buffer=1)
    assert stream.cost.chosen == "index"
    assert [i for _, i, _ in stream] == rows.tolist()
    assert sum(read) == int(reader.index.size[rows].sum())
    assert len(read) == 3  # neighbours are one read


def test_wrong_arguments_are_named(reader: ShardReader) -> None:
    with pytest.raises(DataError, match="node 2 of 2 nodes does not exist"):
        ShardStream(reader, pixel, node=2, nodes=2)
    with pytest.raises(DataError, match="buffer of 0"):
        ShardStream(reader, pixel, buffer=0)
    with pytest.raises(DataError, match="in the reader's order"):
        ShardStream(reader.select([3, 1]), pixel)
