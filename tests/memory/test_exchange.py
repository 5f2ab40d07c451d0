"""Rows that leave a memory in a file come back as they were."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from kc.errors import DataError, FingerprintError, MissingExtraError, RunError
from kc.memory.disk import Memory
from kc.memory.store import exchange, segments, staging
from kc.memory.store.table import Table
from kc.types import Rows

BOTH = pytest.mark.parametrize("ending", ["parquet", "npz"])


@pytest.fixture
def varied(three: Memory, rows: Callable[..., Rows]) -> Memory:
    """Three tasks; a retired, a relabelled, a reweighted row; names of any alphabet, with line ends and zero bytes."""
    names = ("a\nb", "ü\u2028x", "", "end\0", "日本")
    three.add(replace(rows(5, 3, seed=3), sample_id=names, source="日\0", segment=np.arange(5) * 2**40), 3)
    three.commit(3)
    three.remove([5])
    three.relabel([6], [7])
    three.reweight([7], [0.1])
    return three


def same_rows(a: Memory, b: Memory, at: int | None = None) -> None:
    """Same rows in the same order, bit by bit, whatever their ids."""
    mine, theirs = a.ids(at=at), b.ids()
    assert np.array_equal(a.keys(mine), b.keys(theirs))
    x, y = a.rows_of(mine), b.rows_of(theirs)
    for name in ("class_id", "weight", "task", "segment"):
        assert np.array_equal(getattr(x, name), getattr(y, name))
    assert (x.sample_id, x.source) == (y.sample_id, y.source)


@BOTH
def test_round_trip(varied: Memory, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rows.{ending}"
    assert varied.export(file) == 34
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [file.name]  # nothing temporary is left
    with Memory.create_from(tmp_path / "copy", file) as copy:
        same_rows(varied, copy)
        assert (copy.dim, copy.fingerprint, [(v.task, v.rows) for v in copy.versions()]) == (8, "enc:1", [(3, 34)])
        assert copy.import_rows(file) == 0  # idempotent by key
        again = tmp_path / f"again.{ending}"
        copy.export(again)
        with Memory.create_from(tmp_path / "second", again) as second:
            same_rows(varied, second)


@BOTH
def test_an_old_version_and_a_second_memory(
    varied: Memory, rows: Callable[..., Rows], tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"rows.{ending}"
    assert varied.export(file, at=0) == 10
    with Memory.create(tmp_path / "other", dim=8, fingerprint="enc:1") as other:
        other.add(rows(3, 1, prefix="t0-", seed=4), 1)  # of regions that the file has other rows of
        assert other.import_rows(file) == 10
        assert len(other) == 0
        assert other.commit(1) == 10
        assert other.ids(task=0).tolist() == list(range(10))
    with Memory.create_from(tmp_path / "copy", file) as copy:
        assert copy.ids(class_id=0).tolist() == list(range(10))  # row 5 was not retired then, row 6 not relabelled


@BOTH
def test_segments_and_an_empty_memory(
    memory: Memory, rows: Callable[..., Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    file = tmp_path / f"rows.{ending}"
    assert memory.export(file) == 0
    with Memory.create_from(tmp_path / "empty", file) as empty:
        assert len(empty) == 0
    for module in (staging, segments):
        monkeypatch.setattr(module, "MAX_ROWS", 7)
    memory.add(rows(20), 0)
    memory.commit(0)
    assert memory.export(file) == 20  # in place of the first
    with Memory.create_from(tmp_path / "copy", file) as copy:
        same_rows(memory, copy)


def test_other_programs_read_it(varied: Memory, tmp_path: Path) -> None:
    varied.export(tmp_path / "rows.parquet")
    varied.export(tmp_path / "rows.npz")
    table = pyarrow.parquet.read_table(tmp_path / "rows.parquet")
    keys = varied.keys(varied.ids())
    assert np.array_equal(np.array(table["key"].to_pylist(), np.float32), keys)
    assert table["id"].to_pylist() == varied.ids().tolist()
    assert table["sample_id"].to_pylist() == list(varied.rows_of(varied.ids()).sample_id)
    with np.load(tmp_path / "rows.npz") as archive:
        assert np.array_equal(archive["key"], keys)
        assert archive["class_id"].tolist() == table["class_id"].to_pylist()


@BOTH
def test_a_damaged_file_is_refused_and_nothing_is_staged(varied: Memory, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rows.{ending}"
    varied.export(file)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    with Memory.create(tmp_path / "m", dim=8, fingerprint="enc:1") as memory:
        for end in (0, 3, 100, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:end])
            with pytest.raises(DataError, match="not a whole export"):
                memory.import_rows(file)
        for at in rng.integers(0, len(whole), 60):
            broken = bytearray(whole)
            broken[at] ^= 0xFF
            file.write_bytes(broken)
            try:  # a byte that says nothing (padding, a time stamp) may be wrong; a row may not
                memory.import_rows(file)
            except (DataError, FingerprintError, ValueError):
                assert memory.commit(0) == 0
            else:
                memory.commit(0)
                same_rows(varied, memory)
                memory.rollback(-1)
        with pytest.raises(DataError, match="no such file"):
            memory.import_rows(tmp_path / f"none.{ending}")
        with pytest.raises(ValueError, match=r"\.parquet or \.npz"):
            memory.import_rows(tmp_path / "rows.csv")


def rewritten(path: Path, out: Path, **changes: np.ndarray | None) -> Path:
    """The npz at `path` with other arrays; None leaves one out."""
    with np.load(path) as archive:
        arrays = {k: v for k, v in {**archive, **changes}.items() if v is not None}
    np.savez(out, **arrays)
    return out


def test_rows_that_cannot_be_stored_are_refused(varied: Memory, tmp_path: Path) -> None:
    varied.export(tmp_path / "rows.npz")
    n = 34
    wrong = {
        "key": np.ones((n, 8), np.float32),
        "weight": np.full(n, -1, np.float32),
        "class_id": np.full(n, -1),
        "task": np.full(n, -1),
        "segment": np.zeros(3, np.int64),
        "sample_id": np.full(n, 99, np.int32),
        "id": None,
        "source_names": np.frombuffer(b"17\n", np.uint8),
    }
    with Memory.create(tmp_path / "m", dim=8, fingerprint="enc:1") as memory:
        for name, array in wrong.items():
            file = rewritten(tmp_path / "rows.npz", tmp_path / f"{name}.npz", **{name: array})
            with pytest.raises(DataError, match=f"{name}.npz"):
                memory.import_rows(file)
        pickled = rewritten(tmp_path / "rows.npz", tmp_path / "p.npz", key=np.array([{}] * n, object))
        with pytest.raises(DataError, match="allow_pickle"):
            memory.import_rows(pickled)
        assert memory.import_rows(rewritten(tmp_path / "rows.npz", tmp_path / "same.npz")) == n


def test_files_of_another_encoder_are_refused(varied: Memory, tmp_path: Path) -> None:
    varied.export(tmp_path / "rows.npz")
    for name, dim, fingerprint, error in (("a", 8, "enc:2", FingerprintError), ("b", 4, "enc:1", ValueError)):
        other = Memory.create(tmp_path / name, dim=dim, fingerprint=fingerprint)
        with other, pytest.raises(error):
            other.import_rows(tmp_path / "rows.npz")


def test_what_cannot_be_written_leaves_the_old_file(
    varied: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.npz"
    file.write_bytes(b"old")
    with pytest.raises(RunError, match=r"rows\.npz"):
        varied.export(file / "rows.npz")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(zipfile.ZipFile, "open", full)
        with pytest.raises(RunError, match="No space left"):
            varied.export(file)
    assert file.read_bytes() == b"old"
    assert not list(tmp_path.glob("*.tmp"))


def test_parquet_without_pyarrow(varied: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"kc-continual\[parquet\]"):
        varied.export(tmp_path / "rows.parquet")


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_no_flipped_bit_of_an_export_is_used_in_silence(three: Memory, tmp_path: Path, ending: str) -> None:
    """Footers, headers and metadata too: the same rows and the same facts come back, or an error."""
    file = tmp_path / f"rows.{ending}"
    three.export(file)
    data = file.read_bytes()
    header, tables = exchange.read(file)

    def told(tables: list[Table]) -> list[object]:
        return [
            (t.vectors.tobytes(), t.class_id.tolist(), t.weight.tolist(), t.task.tolist(), [*t.sample], [*t.source])
            for t in tables
        ]

    want = told(tables)
    rng = np.random.default_rng(0)
    footer = range(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data)) if ending == "parquet" else ()
    wrong = 0
    for at in {*footer, *rng.integers(len(data), size=300).tolist()}:
        file.write_bytes(data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :])
        try:
            again, rows = exchange.read(file)
        except DataError:
            wrong += 1
            continue
        assert again == header
        assert told(rows) == want
    assert wrong > 200
