"""Damaged files are named, never searched; what no manifest names is dropped; what one names is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kc.errors import CorruptMemoryError, RunError
from kc.memory.rows import Memory
from kc.types import Rows


@pytest.fixture
def closed(three: Memory) -> Path:
    """Three tasks of ten rows with a delta of each kind."""
    three.remove([0])
    three.reweight([1], [0.5])
    three.relabel([2], [9])
    three.close()
    return three.path


def data_files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() and p.name != "LOCK")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_one_flipped_bit_anywhere_is_found(closed: Path) -> None:
    rng = np.random.default_rng(0)
    names = data_files(closed)
    assert len(names) == 3 * 11 + 3 + 2
    for path in names:
        at = int(rng.integers(path.stat().st_size - 1))  # the last byte of the pointer is a line end
        flip(path, at)
        with pytest.raises(CorruptMemoryError, match=path.name):
            Memory.open(closed).verify()
        flip(path, at)
    assert Memory.open(closed).verify() == {
        "files": 38,
        "bytes": sum(p.stat().st_size for p in names if "manifest" not in p.name.lower()),
        "rows": 30,
        "orphans": [],
    }


@pytest.mark.parametrize("name", ["vectors.f32.npy", "ids.npy", "class.npy", "weight.npy", "added.npy"])
def test_search_refuses_rows_of_a_damaged_file(closed: Path, name: str) -> None:
    path = closed / "segments" / "000001" / name
    flip(path, path.stat().st_size - 3)
    with pytest.raises(CorruptMemoryError, match=f"000001/{name}"):
        Memory.open(closed).search(np.eye(8), 3)


def test_missing_and_cut_files(closed: Path) -> None:
    path = closed / "segments" / "000002" / "vectors.f32.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-4])
    with pytest.raises(CorruptMemoryError, match="bytes, the manifest says"):
        Memory.open(closed).search(np.eye(8), 3)
    path.unlink()
    with pytest.raises(CorruptMemoryError, match="missing"):
        Memory.open(closed).search(np.eye(8), 3)
    with pytest.raises(CorruptMemoryError, match=r"000002/vectors\.f32\.npy"):
        Memory.open(closed).verify()
    assert Memory.repair(closed) == []  # damaged data is not dropped
    path.write_bytes(data)
    assert len(Memory.open(closed)) == 29


def test_orphans_are_reported_and_swept(closed: Path, rows: Callable[..., Rows]) -> None:
    for name in ("segments/000003/ids.npy", "segments/000001/extra.npy", "deltas/000099-weights.npy", "MANIFEST.tmp"):
        (closed / name).parent.mkdir(exist_ok=True)
        (closed / name).write_bytes(b"half")
    reader = Memory.open(closed)
    orphans = ["MANIFEST.tmp", "deltas/000099-weights.npy", "segments/000001/extra.npy", "segments/000003"]
    assert reader.verify()["orphans"] == orphans
    assert [s.split(":")[0] for s in Memory.repair(closed)] == [f"removed {o}" for o in orphans]
    assert Memory.open(closed).verify()["orphans"] == []
    (closed / "segments" / "000003").mkdir()
    with Memory.open(closed, write=True) as writer:  # a writer sweeps when it opens
        writer.add(rows(2, prefix="n"), 3)
        assert writer.commit(3) == 2


def test_repair_of_the_pointer(closed: Path) -> None:
    pointer = (closed / "MANIFEST").read_text()
    for content in (b"manifest-000099.json\n", b"\xff\xfe", b"", None):
        (closed / "MANIFEST").unlink(missing_ok=True)
        if content is not None:
            (closed / "MANIFEST").write_bytes(content)
        with pytest.raises(CorruptMemoryError, match="MANIFEST"):
            Memory.open(closed)
        if content is None:
            with pytest.raises(CorruptMemoryError, match="repair"):  # never made anew over rows
                Memory.open_or_create(closed, dim=8, fingerprint="enc:1")
        assert pointer.strip() in Memory.repair(closed)[0]
        assert (closed / "MANIFEST").read_text() == pointer
        assert len(Memory.open(closed)) == 29


def test_nothing_to_repair_from(closed: Path, tmp_path: Path) -> None:
    flip(next(closed.glob("manifest-*.json")), 50)
    with pytest.raises(CorruptMemoryError, match="restore a copy"):
        Memory.repair(closed)
    assert len(list((closed / "segments").iterdir())) == 3
    with pytest.raises(RunError, match="no memory"):
        Memory.repair(tmp_path / "nowhere")


def test_creation_that_was_interrupted_can_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "m"
    Memory.create(path, dim=8, fingerprint="f").close()
    (path / "MANIFEST").unlink()
    with Memory.create(path, dim=4, fingerprint="g") as memory:
        assert memory.dim == 4
