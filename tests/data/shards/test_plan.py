"""What reading a task from shards costs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kc.data.manifest import Manifest
from kc.data.shards.plan import blocks_of, task_bytes
from kc.data.shards.reader import ShardReader
from kc.data.shards.store import FolderStore
from kc.data.shards.write import write_shards
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


def test_bytes_of_a_task(reader: ShardReader) -> None:
    index, rows = reader.index, np.arange(22, 33)
    assert task_bytes(index, rows, block=512) == int(index.size[rows].sum()) + index.n_bytes
    assert task_bytes(index, np.arange(N), block=1 << 20) == 6 * (1 << 20) + index.n_bytes


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
