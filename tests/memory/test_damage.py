"""Damaged files are named, never searched; what no manifest names is dropped; what one names is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash

from kc.errors import CorruptMemoryError, RunError
from kc.memory.disk import Memory
from kc.memory.search.planner import SearchOptions
from kc.memory.store import manifest as manifests
from kc.memory.vote import pruning as prune
from kc.types import Rows


@pytest.fixture
def closed(three: Memory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three tasks of ten rows with a delta of each kind: one in the manifest, two in files."""
    three.remove([0])
    monkeypatch.setattr("kc.memory.store.segments.INLINE_CHARS", 0)
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
    assert len(names) == 3 * 11 + 2 + 1
    for path in names:
        at = int(rng.integers(path.stat().st_size))
        flip(path, at)
        with pytest.raises(CorruptMemoryError, match=path.name):
            Memory.open(closed).verify()
        flip(path, at)
    assert Memory.open(closed).verify() == {
        "files": 36,
        "bytes": sum(p.stat().st_size for p in names if p.name != "MANIFEST"),
        "rows": 30,
        "orphans": [],
    }


def test_compacted_and_derived_files_are_checked_too(closed: Path) -> None:
    with Memory.open(closed, write=True) as memory:
        memory.compact()
        prune.leave_one_out(memory, 3, block_rows=10)
        prune.leave_one_out(memory, 3, at=1)
        memory.configure(SearchOptions(index="ivf-sq8", exact_rows=0))
        memory.search(np.eye(8), 3)
    rng = np.random.default_rng(0)
    names = data_files(closed)
    assert len(names) == 11 + 3 + 1 + 3 + 1 + 2  # segment, deltas, manifest, blocks of now and of the version, index
    for path in names:
        at = int(rng.integers(path.stat().st_size))
        flip(path, at)
        with pytest.raises(CorruptMemoryError, match=path.name):
            Memory.open(closed).verify()
        flip(path, at)
    assert Memory.open(closed).verify()["rows"] == 30


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


def test_a_damaged_manifest_is_named_and_nothing_is_dropped(closed: Path, tmp_path: Path) -> None:
    whole = (closed / "MANIFEST").read_bytes()
    newer = whole.replace(b"manifest 4 ", b"manifest 5 ", 1)
    assert newer != whole
    for content in (b"\xff\xfe", b"", whole[:-1], whole[10:], newer, None):
        (closed / "MANIFEST").unlink(missing_ok=True)
        if content is not None:
            (closed / "MANIFEST").write_bytes(content)
        for use in (Memory.open, Memory.repair):
            with pytest.raises(CorruptMemoryError, match="MANIFEST"):
                use(closed)
        if content is None:
            with pytest.raises(CorruptMemoryError, match="restore it from a copy"):  # never made anew over rows
                Memory.open_or_create(closed, dim=8, fingerprint="enc:1")
        assert len(list((closed / "segments").iterdir())) == 3
    (closed / "MANIFEST").write_bytes(whole)
    assert len(Memory.open(closed)) == 29
    with pytest.raises(RunError, match="no memory"):
        Memory.repair(tmp_path / "nowhere")


def test_checksums_are_xxh3_of_the_whole_file(closed: Path) -> None:
    for name, (size, checksum) in manifests.load(closed).named_files().items():
        content = (closed / name).read_bytes()
        assert (size, checksum) == (len(content), "xxh3-" + xxhash.xxh3_128_hexdigest(content))


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_an_older_schema_is_refused(closed: Path, schema: int) -> None:
    text = b"manifest-000006.json\n"
    if schema > 1:
        _, _, body = (closed / "MANIFEST").read_bytes().partition(b"\n")
        text = f"kc-memory-manifest {schema} {hashlib.sha256(body).hexdigest()}\n".encode() + body
    (closed / "MANIFEST").write_bytes(text)
    for use in (Memory.open, Memory.repair, lambda path: Memory.open(path, write=True)):
        with pytest.raises(RunError, match=f"schema {schema}.*kc memory build"):
            use(closed)
    assert (closed / "MANIFEST").read_bytes() == text  # nothing was swept
    assert len(list((closed / "segments").iterdir())) == 3


def test_creation_that_was_interrupted_can_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "m"
    Memory.create(path, dim=8, fingerprint="f").close()
    (path / "MANIFEST").unlink()
    with Memory.create(path, dim=4, fingerprint="g") as memory:
        assert memory.dim == 4
