"""The memory in Milvus: what is its own, beside the contract of every store."""

from __future__ import annotations

import importlib.util
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kc.errors import CorruptMemoryError, KcError, MemoryLockedError, MissingExtraError, RunError
from kc.memory.disk import Memory
from kc.memory.milvus.client import ALL, Store, collection_name
from kc.memory.milvus.memory import MilvusMemory
from kc.memory.milvus.rows import Marker
from kc.memory.store.info import MemoryInfo
from kc.types import ClassInfo, Rows

INSTALLED = all(importlib.util.find_spec(name) for name in ("pymilvus", "milvus_lite"))
needs_milvus = pytest.mark.skipif(not INSTALLED, reason="pymilvus and milvus-lite: pip install 'kc-continual[milvus]'")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KC_MILVUS_URI", raising=False)


@pytest.fixture
def memory(tmp_path: Path, rows: Callable[..., Rows]) -> Iterator[MilvusMemory]:
    """Two tasks of ten rows; ids 10t..10t+9."""
    with MilvusMemory.create(tmp_path / "m", dim=8, fingerprint="enc:1") as m:
        for t in range(2):
            m.add(rows(10, t, prefix=f"t{t}-", seed=t, source="ab"[t]), t)
            m.commit(t)
        yield m


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address that answers as a cluster would."""
    from milvus_lite.server_manager import server_manager_instance

    path = str(tmp_path / "server.db")
    uri = server_manager_instance.start_and_get_uri(path)
    assert uri is not None
    monkeypatch.setenv("KC_MILVUS_URI", uri)
    yield uri
    server_manager_instance.release_server(path)


def state(memory: MilvusMemory) -> tuple[object, ...]:
    """All that a reader can tell."""
    labels = memory.labels()
    names = [(v.task, v.rows) for v in memory.versions()]
    return labels.id.tolist(), labels.class_id.tolist(), labels.weight.tolist(), names


@pytest.mark.parametrize("package", ["pymilvus", "milvus_lite"])
def test_what_to_install_is_said(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pymilvus", "milvus_lite"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)  # sys stands for an installed one
    with pytest.raises(MissingExtraError, match=rf"{package}.*pip install 'kc-continual\[milvus\]'"):
        MilvusMemory.create(tmp_path / "m", dim=2, fingerprint="f")


def test_names_of_collections() -> None:
    assert collection_name(Path("faces")) == "kc_faces"
    assert collection_name(Path("runs/a-b")) != collection_name(Path("runs/a_b"))
    long = collection_name(Path("x/" * 300))
    assert len(long) < 250
    assert long.replace("_", "").isalnum()


CHANGES: dict[str, Callable[[MilvusMemory], object]] = {
    "commit": lambda m: m.commit(2),
    "remove": lambda m: m.remove(class_id=1),
    "relabel": lambda m: m.relabel([1, 2], 7),
    "reweight": lambda m: m.reweight([1, 15], 0.25),
    "rollback": lambda m: m.rollback(0),
}


@needs_milvus
@pytest.mark.parametrize("same_process", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_fails_before_its_marker_did_not_happen(
    name: str, same_process: bool, memory: MilvusMemory, rows: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(memory)
    fresh = rows(5, 2, prefix="t2-", seed=2)
    memory.add(fresh, 2)

    def fail(store: Store, marker: Marker) -> None:
        raise RunError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_marker", fail)
        with pytest.raises(RunError, match="no network"):
            CHANGES[name](memory)
    assert state(memory) == before
    with MilvusMemory.open(memory.path) as reader:
        assert state(reader) == before
        if same_process:
            memory.add(fresh, 2)  # a rollback has dropped them; otherwise they are still staged
            writer = memory
        else:
            memory.close()
            writer = MilvusMemory.open(memory.path, write=True)
            writer.add(fresh, 2)
        CHANGES[name](writer)
        writer.add(fresh, 2)
        writer.commit(2)
        if name != "rollback":
            assert state(reader) == before
    labels = writer.labels()
    ids = [*range(10 if name in ("remove", "rollback") else 20), *range(20, 25)]
    assert labels.id.tolist() == ids
    assert (labels.class_id == 7).sum() == (2 if name == "relabel" else 0)
    assert (labels.weight == 0.25).sum() == (2 if name == "reweight" else 0)
    ended = {"remove": 10, "relabel": 2, "reweight": 2}.get(name, 0)
    assert writer._store.count(ALL) == len(ids) + ended  # nothing is left of the first attempt
    writer.close()


@needs_milvus
def test_a_kill_at_the_end_of_a_flush_shows_no_row_twice(memory: MilvusMemory) -> None:
    """milvus-lite lists the file that a flush wrote, then deletes its log. Killed between the two, it replays the log
    over the file, and every entity of the log is there twice."""
    memory.relabel([1, 2, 3], 7)
    before = state(memory)
    root = memory.path
    logs = {p: p.read_bytes() for p in root.glob("milvus.db/collections/memory/wal/*")}
    assert logs
    memory._store.flush()
    assert not any(p.exists() for p in logs)
    memory.close()
    for write in (False, True):
        for path, content in logs.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        with MilvusMemory.open(root, write=write) as again:
            assert state(again) == before
            assert len(again) == 20
            assert again._store.count(ALL) == 23
            assert np.array_equal(np.sort(again.search(np.eye(8), 20).id), np.tile(np.arange(20), (8, 1)))
            if write:
                again.relabel([1, 4], 8)
                assert (again.labels().class_id == 8).sum() == 2
                assert len(again) == 20


@needs_milvus
def test_a_rollback_that_is_interrupted_is_finished_by_the_next_writer(
    memory: MilvusMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.remove([3])

    def fail(store: Store, where: str) -> None:
        raise RunError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete", fail)
        with pytest.raises(RunError, match="no network"):
            memory.rollback(0)
    with MilvusMemory.open(memory.path) as reader:
        assert reader.ids().tolist() == [*range(10)]  # it is shown at once
    memory.close()
    with MilvusMemory.open(memory.path, write=True) as again:
        assert again.remove([0]) == 1
        assert again._store.count(ALL) == 10


@needs_milvus
def test_a_reader_is_told_when_old_states_are_gone(memory: MilvusMemory) -> None:
    for rewrite in (
        lambda: memory.erase([0]),
        lambda: memory.rollback(0),
        lambda: (memory.remove([1]), memory.compact(history=False)),
    ):
        with MilvusMemory.open(memory.path) as reader:
            rewrite()
            for read in (reader.labels, lambda r=reader: r.search(np.eye(8), 1), lambda r=reader: r.keys([5])):
                with pytest.raises(RunError, match="open it again"):
                    read()


@needs_milvus
def test_erase_can_be_repeated(memory: MilvusMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.relabel([0], 5)
    delete, calls = Store.delete, []

    def once(store: Store, where: str) -> None:
        calls.append(where)
        if len(calls) > 1:
            raise RunError("no network")
        delete(store, where)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete", once)
        with pytest.raises(RunError, match="no network"):
            memory.erase(class_id=5)
    assert memory.erase(class_id=5) == 1
    assert memory._store.count("id == 0") == 0


@needs_milvus
def test_one_writer(memory: MilvusMemory) -> None:
    with pytest.raises(MemoryLockedError, match="already has a writer"):
        MilvusMemory.open(memory.path, write=True)
    # What a cluster allows: nobody holds a lock.
    second = MilvusMemory(memory.path, Store(memory.path), None, write=True)
    assert second.remove([0]) == 1
    with pytest.raises(RunError, match="second writer"):
        memory.remove([1])
    assert second.ids().tolist() == [*range(1, 20)]
    second.close()


@needs_milvus
def test_a_folder_is_open_in_one_process(memory: MilvusMemory) -> None:
    code = f"from kc.memory.milvus.memory import MilvusMemory; print(len(MilvusMemory.open({str(memory.path)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "RunError" in done.stderr
    assert "only one process at a time" in done.stderr
    memory.close()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "20\n"


@needs_milvus
def test_damage_and_half_made_memories_are_named(memory: MilvusMemory, tmp_path: Path) -> None:
    memory._store._write_slots({0: "{}"})
    with pytest.raises(CorruptMemoryError, match="marker"):
        MilvusMemory.open(memory.path)
    memory._store._client.delete(memory._store.commits, filter="slot == 0")
    with pytest.raises(RunError, match="not made whole"):
        MilvusMemory.open(memory.path)


@needs_milvus
def test_a_header_longer_than_one_entity(tmp_path: Path) -> None:
    classes = {i: ClassInfo(i, f"class {i}", ("synonym " * 10,)) for i in range(1203)}
    info = MemoryInfo("lite0", "panoptic", (640, 640), classes)
    assert len(json.dumps(info.to_json())) > 65_535
    MilvusMemory.create(tmp_path / "n", dim=2, fingerprint="f", info=info).close()
    with MilvusMemory.open(tmp_path / "n") as memory:
        assert memory.info == info


@needs_milvus
def test_a_memory_of_the_old_numbering_is_refused(memory: MilvusMemory) -> None:
    header = json.loads(memory._header.to_text())
    memory._store._write_slots({1: json.dumps({k: v for k, v in header.items() if k not in ("schema", "info")})})
    memory.close()
    with pytest.raises(RunError, match="schema 3"):
        MilvusMemory.open(memory.path)


@needs_milvus
def test_anonymous(tmp_path: Path, rows: Callable[..., Rows]) -> None:
    with MilvusMemory.create(tmp_path / "m", dim=8, fingerprint="f", anonymous=True) as memory:
        memory.add(rows(4, prefix="alice-", source="hospital"), 0)
        memory.commit(0)
        assert memory.add(rows(4, prefix="alice-", source="hospital"), 0) == 0
        assert memory.ids(sample_id="alice-2").tolist() == [2]
        assert memory.search(np.eye(8), 9, sources="hospital").id.shape == (8, 4)
        info = memory.rows_of([0])
        assert len(info.sample_id[0]) == len(info.source[0]) == 32
    stored = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"key" in stored
    assert b"alice" not in stored
    assert b"hospital" not in stored
    with pytest.raises(ValueError, match="anonymous=True"):
        MilvusMemory.open_or_create(tmp_path / "m", dim=8, fingerprint="f")


@needs_milvus
def test_rows_travel_between_disk_and_milvus(memory: MilvusMemory, tmp_path: Path) -> None:
    memory.relabel([4], 9)
    memory.remove([5])
    queries = np.random.default_rng(0).normal(size=(5, 8))
    wanted = memory.search(queries, 6)
    assert memory.export(tmp_path / "rows.npz") == 19
    with Memory.create_from(tmp_path / "disk", tmp_path / "rows.npz") as disk:
        there = disk.search(queries, 6)
        with MilvusMemory.create(tmp_path / "back", dim=8, fingerprint="enc:1") as back:
            assert back.merge(disk) == 19
            assert back.merge(memory) == 0
            assert back.import_rows(tmp_path / "rows.npz") == 0
            assert back.commit(1) == 19
            again = back.search(queries, 6)
    for found in (there, again):
        for name in ("score", "class_id", "weight", "task"):
            assert np.array_equal(getattr(found, name), getattr(wanted, name))


@needs_milvus
@pytest.mark.parametrize(
    ("index", "params"),
    [
        ({"index_type": "HNSW", "params": {"M": 8, "efConstruction": 32}}, {"ef": 64}),
        ({"index_type": "IVF_SQ8", "params": {"nlist": 4}}, {"nprobe": 4}),
    ],
)
def test_other_indexes(
    index: dict[str, Any], params: dict[str, int], tmp_path: Path, rows: Callable[..., Rows]
) -> None:
    """Whatever proposes the rows, float64 decides."""
    with MilvusMemory.create(tmp_path / "m", dim=8, fingerprint="f", index=index) as memory:
        memory.add(rows(200), 0)
        memory.commit(0)
        memory.configure(**params)
        found = memory.search(rows(200).keys, 1)
        assert np.array_equal(found.id[:, 0], np.arange(200))
        assert np.array_equal(found.score, np.ones((200, 1), np.float32))
        assert memory.stats()["index"] == index | params


@needs_milvus
def test_a_cluster_is_found_by_its_address(cluster: str, tmp_path: Path, rows: Callable[..., Rows]) -> None:
    with pytest.raises(RunError, match="no memory faces"):
        MilvusMemory.open("faces")
    with MilvusMemory.create("faces", dim=8, fingerprint="f") as faces:
        faces.add(rows(5), 0)
        faces.commit(0)
        with MilvusMemory.open_or_create("runs/other", dim=8, fingerprint="f") as other:
            assert len(other) == 0
        with pytest.raises(RunError, match="already holds"):
            MilvusMemory.create("faces", dim=8, fingerprint="f")
        with pickle.loads(pickle.dumps(faces)) as reader:
            assert np.array_equal(reader.search(rows(5).keys, 2).id, faces.search(rows(5).keys, 2).id)
            with pytest.raises(RunError, match="write=True"):
                reader.remove([0])
        assert faces.stats()["bytes"] is None
        assert faces.stats()["reason"].endswith(cluster)
    assert not Path("faces").exists()
    faces = MilvusMemory.open("faces")
    for name in faces._store.names():
        faces._store._client.drop_collection(name)
    faces.close()
    with pytest.raises(KcError):
        len(faces)
