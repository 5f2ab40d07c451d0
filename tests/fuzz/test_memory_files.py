"""A memory with anything in its files: KcError alone, and nothing outside is touched. `FUZZ=N make fuzz`: N inputs."""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from kc.memory.disk import Memory
from kc.memory.store.files import checksum_of
from kc.memory.store.info import MemoryInfo
from kc.types import ClassInfo, Rows
from tests.fuzz.test_data_files import anything, fuzz
from tests.memory.conftest import make_rows
from tests.memory.test_foreign import edited, kept, use

hostile = st.one_of(
    anything,
    st.integers(-(2**70), 2**70),
    st.sampled_from(
        ["../../mine", "/etc", "..", "weights", "000001", "a\0", "\ud8ff", "x" * 300, 2**62, -0.0, 10**400]
    ),
)


def places(body: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    inner = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [above, *(place for key, value in inner for place in places(value, (*above, key)))]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small memory with changes of each kind and with names."""
    path = tmp_path_factory.mktemp("store") / "memory"
    info = MemoryInfo("lite0", "classification", (8, 8), {0: ClassInfo(0, "a"), 1: ClassInfo(1, "b")})
    with Memory.create(path, dim=8, fingerprint="f", info=info) as memory:
        for task in range(2):
            rows: Rows = make_rows(6, task, prefix=f"t{task}-", seed=task, source="ab"[task])
            memory.add(rows, task)
            memory.commit(task)
        memory.reweight([1], np.array([0.5]))
        memory.relabel([2], [1])
        memory.remove([3])
    return path


@seed(1)
@fuzz
@given(data=st.data())
def test_manifest(store: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, mine = Path(folder) / "memory", Path(folder) / "mine"
        shutil.copytree(store, root)
        mine.mkdir()
        (mine / "notes.txt").write_text("keep me")

        def change(body: dict[str, Any]) -> None:
            for _ in range(data.draw(st.integers(1, 3))):
                place = data.draw(st.sampled_from([p for p in places(copy.deepcopy(body)) if p]))
                inner: Any = body
                for key in place[:-1]:
                    inner = inner[key]
                if data.draw(st.booleans()) or isinstance(inner, list):
                    inner[place[-1]] = data.draw(hostile)
                else:
                    inner[str(data.draw(hostile))] = inner.pop(place[-1])

        try:
            edited(root, change)
        except (ValueError, UnicodeEncodeError):  # no file can hold this
            return
        use(root)
        assert kept(mine) == {"notes.txt": "keep me"}
        assert sorted(p.name for p in Path(folder).iterdir()) == ["memory", "mine"]


@seed(1)
@fuzz
@given(data=st.data())
def test_bytes_of_any_file(store: Path, data: st.DataObject) -> None:
    """Each file of the memory cut, grown or replaced, under a checksum that the manifest agrees with."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "memory"
        shutil.copytree(store, root)
        segment = data.draw(st.sampled_from(["000000", "000001"]))
        name = data.draw(st.sampled_from(sorted(p.name for p in (root / "segments" / segment).iterdir())))
        path = root / "segments" / segment / name
        old = path.read_bytes()
        cut = data.draw(st.integers(0, len(old)))
        path.write_bytes(old[:cut] + data.draw(st.binary(max_size=20)) + old[data.draw(st.integers(cut, len(old))) :])
        ref = [path.stat().st_size, checksum_of(path)]

        def change(body: dict[str, Any]) -> None:
            next(s for s in body["segments"] if s["name"] == segment)["files"][name] = ref

        edited(root, change)
        use(root)
