"""Training in the order of shards: each image once an epoch, in step, and read from front to back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kc.cli import main
from kc.data.datamodule import IncrementalDataModule
from kc.data.shards.plan import stream_order
from kc.errors import DataError, UnknownNameError


def test_an_order_goes_from_shard_to_shard() -> None:
    shard = np.repeat(np.arange(20), 50).astype(np.int32)
    exact = stream_order(shard, np.random.default_rng(0), buffer=1)
    assert sorted(exact.tolist()) == list(range(1000))
    runs = np.flatnonzero(np.diff(shard[exact], prepend=-1))
    assert len(runs) == 20  # each shard is opened once
    assert all((np.diff(exact[a : a + 50]) == 1).all() for a in runs)
    assert (exact != np.arange(1000)).any()
    mixed = stream_order(shard, np.random.default_rng(0), buffer=100)
    assert sorted(mixed.tolist()) == list(range(1000))
    place = np.empty(1000, np.int64)
    place[exact] = np.arange(1000)
    moved = np.abs(place[mixed] - np.arange(1000))
    assert 0 < moved.max() < 100  # never farther than the buffer is long
    assert len(set(shard[mixed[:50]].tolist())) > 1
    assert (stream_order(shard, np.random.default_rng(0), buffer=100) == mixed).all()
    assert stream_order(np.empty(0, np.int32), np.random.default_rng(0)).tolist() == []


@pytest.fixture
def sharded(tmp_path: Path, tiny_folder: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> Path:
    out = tmp_path / "sharded"
    arguments = ["data", "shards", str(tiny_folder.path), "--data-root", str(tiny_folder.root), "--out", str(out)]
    assert main([*arguments, "--per-shard", "2"]) == 0
    capsys.readouterr()
    return out / f"{tiny_folder.manifest.name}.yaml"


def epochs(path: Path, **options: object) -> list[list[str]]:
    """The sample ids of two epochs of task 1, in the batches of all parts."""
    parts = int(str(options.pop("parts", 1)))
    data = IncrementalDataModule(
        path, tasks=2, data_root=path.parent, batch_size=2, shard_order="stream", cache_samples=False, **options
    )  # type: ignore[arg-type]
    loaders = [data.loader("train", 1, "seen", shuffle=True, part=p, parts=parts) for p in range(parts)]
    found = []
    for epoch in range(2):
        seen: list[str] = []
        for loader in loaders:
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batches in zip(*loaders, strict=True):
            seen += [sample_id for batch in batches for sample_id in batch["sample_id"]]
        found.append(seen)
    return found


def test_each_image_once_an_epoch_with_any_workers_and_processes(sharded: Path) -> None:
    one = epochs(sharded)
    whole = IncrementalDataModule(sharded, tasks=2, data_root=sharded.parent).dataset("train", 1, "seen").sample_ids
    assert all(sorted(seen) == sorted(whole) for seen in one)
    assert one[0] != one[1]
    assert epochs(sharded) == one  # again, as after a resumed run
    assert epochs(sharded, num_workers=2) == one
    assert epochs(sharded, parts=2) == one  # what two processes see together is what one sees
    assert epochs(sharded, seed=7) != one


def test_the_order_is_that_of_shards_alone(sharded: Path, tiny_folder: SimpleNamespace) -> None:
    with pytest.raises(DataError, match="'stream' is for benchmarks that lie in shards"):
        IncrementalDataModule(tiny_folder.path, data_root=tiny_folder.root, shard_order="stream").setup()
    domains = IncrementalDataModule(sharded, data_root=sharded.parent, shard_order="stream", stream="domain")
    with pytest.raises(DataError, match="any stream but domain"):
        domains.loader("train", 0, shuffle=True)
    with pytest.raises(UnknownNameError, match="shard order"):
        IncrementalDataModule(sharded, shard_order="streem")  # type: ignore[arg-type]
