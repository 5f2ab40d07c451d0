"""The proof that rows are gone finds every kind of trace, wherever it lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kc.memory import erasure as absence
from kc.memory.disk import Memory
from kc.memory.erasure import prove_absent, traces, traces_of_export
from kc.memory.search.planner import SearchOptions
from kc.memory.store import exchange
from kc.memory.store.info import MemoryInfo
from kc.predict.edit import erase
from kc.types import ClassInfo, Rows


def test_stored_rows_are_found_in_every_file_that_holds_them(three: Memory) -> None:
    three.reweight([12], [0.5])
    gone = traces(three, [11, 12])
    assert gone.names == ("t1-1", "t1-2")
    result = prove_absent(three.path, gone)
    assert not result
    assert result.found == (
        "segment 000001 holds 2 of the ids (11, 12)",
        "change 000004-weights.npy names 1 of the ids (12)",
        "segments/000001/samples.jsonl holds 2 of the names ('t1-1', 't1-2')",
        "segments/000001/vectors.f32.npy holds the key of 2 of the rows (11, 12)",
    )
    assert result.files == sum(p.is_file() for p in three.path.rglob("*"))


@pytest.mark.parametrize("order", ["erase", "remove first", "compact first"])
def test_erased_rows_are_not_found(three: Memory, order: str) -> None:
    gone = traces(three, range(10, 20))
    assert gone.names == ("b", *(f"t1-{i}" for i in range(10)))
    if order == "remove first":
        three.remove(source="b")
        assert not prove_absent(three.path, gone)  # retired is not erased
    if order == "compact first":
        three.compact()
    three.erase(source="b")
    result = prove_absent(three.path, gone)
    assert result
    assert result.bytes == sum(p.stat().st_size for p in three.path.rglob("*") if p.is_file())
    assert not prove_absent(three.path, traces(three, [3]))


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 57, 61])
def test_a_key_is_found_at_any_offset_and_across_chunks(
    three: Memory, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absence, "READ_BYTES", 64)
    gone = traces(three, [15, 16])
    three.erase([15, 16])
    assert prove_absent(three.path, gone)
    (three.path / "cache").mkdir()
    (three.path / "cache" / "left.bin").write_bytes(b"x" * offset + gone.keys[1].tobytes() + b"y" * 5)
    assert prove_absent(three.path, gone).found == ("cache/left.bin holds the key of 1 of the rows (16)",)


def test_near_copies_are_not_taken_for_the_row(tmp_path: Path) -> None:
    """Keys that share most of their values, among them zeros and a value that all have, as features after a ReLU."""
    keys = np.zeros((40, 8), np.float32)
    keys[:, 0] = 0.6
    keys[np.arange(40), 1 + np.arange(40) % 4] = 0.48
    keys[np.arange(40), 5 + np.arange(40) % 3] = 0.64
    keys[12:] += np.linspace(0.001, 0.01, 28, dtype=np.float32)[:, None]
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    names = tuple(f"n{i}" for i in range(40))
    with Memory.create(tmp_path / "m", dim=8, fingerprint="f") as memory:
        memory.add(Rows(keys, np.zeros(40, np.int64), names, np.zeros(40, np.int64)), 0)
        memory.commit(0)
        gone = traces(memory, range(0, 40, 2))
        assert "holds the key of 20 of the rows" in " ".join(prove_absent(memory.path, gone).found)
        memory.erase(range(0, 40, 2))
        found = prove_absent(memory.path, gone).found
        # Rows of the same bytes stay: they are no remains, and told.
        kept = {k.tobytes() for k in memory.keys(memory.ids())}
        assert found == ()
        assert gone.twins == {k.tobytes() for k in gone.keys} & kept


def test_names_that_another_row_keeps_are_not_traces(memory: Memory, rows: Callable[..., Rows]) -> None:
    one = rows(4, [0, 1, 0, 1])
    memory.add(Rows(one.keys, one.class_id, ("a", "a", "ü b", "c"), np.arange(4), "photos"), 0)
    memory.commit(0)
    assert traces(memory, [0, 2]).names == ("ü b",)
    memory.remove([1])
    assert traces(memory, [0, 2]).names == ("ü b",)  # a retired row keeps its name too
    gone = traces(memory, [0, 2])
    memory.erase([0, 2])
    assert prove_absent(memory.path, gone)
    (memory.path / "notes.json").write_text('["ü b"]', encoding="utf-8")
    assert prove_absent(memory.path, gone).found == ("notes.json holds 1 of the names ('ü b')",)


def test_an_export_made_before_knows_the_bytes(three: Memory, tmp_path: Path) -> None:
    three.export(tmp_path / "before.npz")
    three.erase([5, 25])
    _, tables = exchange.read(tmp_path / "before.npz")
    gone = traces_of_export(tables, three, [5, 25])
    assert gone.names == ("t0-5", "t2-5")
    assert prove_absent(three.path, gone)
    assert not prove_absent(three.path, traces_of_export(tables, three, [5, 6]))
    assert len(traces_of_export(tables, three).keys) == 30
    with pytest.raises(ValueError, match="no row with id 30, 31"):
        traces_of_export(tables, three, [5, 30, 31])
    with pytest.raises(ValueError, match="no row with id 5"):
        traces(three, [5])


def test_an_anonymous_memory_keeps_no_hash_either(tmp_path: Path, rows: Callable[..., Rows]) -> None:
    with Memory.create(tmp_path / "m", dim=8, fingerprint="f", anonymous=True) as memory:
        memory.add(rows(5), 0)
        memory.commit(0)
        gone = traces(memory, [2])
        assert len(gone.names) == 1
        assert len(gone.names[0]) == 32
        assert len(prove_absent(memory.path, gone).found) == 3
        memory.erase(sample_id="s2")
        assert prove_absent(memory.path, gone)


WORDS = ("ids", "weights", "000001", "MANIFEST", "pid", "kind", "segments", "host", "tombstones", "knn", "name", "b")


def test_words_of_the_store_are_no_remains(tmp_path: Path, rows: Callable[..., Rows]) -> None:
    """Samples and classes may be called as keys and values of the store's own files are."""
    names = ("keep", *WORDS)
    info = MemoryInfo("lite0", "classification", (8, 8), {i: ClassInfo(i, name) for i, name in enumerate(names)})
    with Memory.create(tmp_path / "m", dim=8, fingerprint="f", info=info) as memory:
        keys = rows(len(names)).keys
        memory.add(Rows(keys, np.arange(len(names)), names, np.zeros(len(names), np.int64), source="b"), 0)
        memory.add(rows(40, seed=1, source="b"), 0)
        memory.commit(0)
        memory.reweight([0], [0.5])
        gone = erase(memory, memory.ids(class_id=[3]), 3)
        assert gone.names == (names[3],)
        assert prove_absent(memory.path, gone)
        memory.configure(SearchOptions(index="ivf-sq8", exact_rows=0))
        for class_id in (1, 2, *range(4, len(names))):
            memory.search(keys[:1], 1)  # an index, whose description has words of its own
            gone = erase(memory, memory.ids(class_id=[class_id]), class_id)
            assert gone.names == (() if names[class_id] == "b" else (names[class_id],))  # the source of what stays
            memory.search(keys[:1], 1)
            assert prove_absent(memory.path, gone).found == ()
        assert memory.class_names == {0: "keep"}


def test_names_of_classes_and_other_columns_that_stay_are_no_remains(tmp_path: Path, rows: Callable[..., Rows]) -> None:
    info = MemoryInfo("lite0", "classification", (8, 8), {0: ClassInfo(0, "cat"), 1: ClassInfo(1, "dog")})
    with Memory.create(tmp_path / "m", dim=8, fingerprint="f", info=info) as memory:
        one = rows(3)
        memory.add(Rows(one.keys[:2], np.array([0, 1]), ("cat", "dog"), np.zeros(2, np.int64), source="photos"), 0)
        memory.add(Rows(one.keys[2:], np.array([1]), ("photos",), np.zeros(1, np.int64), source="dog"), 0)
        memory.commit(0)
        gone = traces(memory, [0, 2])  # the samples `cat` and `photos`, the source `dog`
        assert gone.names == ()  # a class, a source and a sample of what stays
        memory.erase([0, 2])
        assert prove_absent(memory.path, gone)
        assert memory.class_names == {0: "cat", 1: "dog"}


def test_a_name_within_another_that_has_quotes_is_no_remains(tmp_path: Path, rows: Callable[..., Rows]) -> None:
    with Memory.create(tmp_path / "m", dim=8, fingerprint="f") as memory:
        one = rows(3)
        names = ("a", '5"a', '5\\"a"')
        memory.add(Rows(one.keys, np.zeros(3, np.int64), names, np.zeros(3, np.int64), source="s"), 0)
        memory.commit(0)
        gone = traces(memory, [0])
        assert {f.split(" holds ")[1] for f in prove_absent(memory.path, gone).found if "name" in f} == {
            "1 of the names ('a')"
        }
        memory.erase([0])
        assert prove_absent(memory.path, gone).found == ()
