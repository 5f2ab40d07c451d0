"""A memory that somebody else made reads, writes, truncates and deletes nothing outside itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kc.errors import CorruptMemoryError, KcError
from kc.memory.disk import Memory
from kc.memory.search.planner import SearchOptions

OPEN = "kc-memory-manifest 4"


def edited(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The manifest with another body, under a checksum that fits."""
    head, _, text = (root / "MANIFEST").read_text().partition("\n")
    body = json.loads(text)
    change(body)
    text = json.dumps(body)
    (root / "MANIFEST").write_text(f"{head.rpartition(' ')[0]} {hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def use(root: Path) -> None:
    """All that reads and writes, as far as errors let it."""
    steps: list[Callable[[Memory], object]] = [
        lambda m: m.search(np.ones((1, m.dim)), 2), lambda m: m.rows_of(m.ids()), lambda m: list(m.tables()),
        lambda m: m.verify(), lambda m: m.stats(), lambda m: m.labels(0), lambda m: m.ids(source="a", retired=True),
    ]  # fmt: skip
    changes: list[Callable[[Memory], object]] = [
        lambda m: m.configure(SearchOptions(index="ivf-sq8", exact_rows=0)), lambda m: m.search(np.ones((1, m.dim)), 2),
        lambda m: m.derived("x"), lambda m: m.remove(source="b"), lambda m: m.compact(), lambda m: m.erase(source="a"),
        lambda m: m.rollback(0), lambda m: m.compact(history=False),
    ]  # fmt: skip
    for write, acts in ((False, steps), (True, changes)):
        with contextlib.suppress(KcError), Memory.open(root, write=write) as memory:
            for act in acts:
                with contextlib.suppress(KcError):
                    act(memory)
    with contextlib.suppress(KcError):
        Memory.repair(root)


def read(root: Path, write: bool = False) -> None:
    with Memory.open(root, write=write) as memory:
        memory.rows_of(memory.ids())
        memory.search(np.eye(8), 1)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of somebody who opens the memory."""
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    (folder / "notes.txt").write_text("keep me")
    (folder / "deep" / "vectors.f32.npy").write_text("keep me too")
    (folder / "MANIFEST").write_text("secret")
    return folder


def kept(mine: Path) -> dict[str, str]:
    return {str(p.relative_to(mine)): p.read_text() for p in mine.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["../../mine/deep", "/ABSOLUTE/deep", "..", ".", "", "a/b", "a\\b", "a\0b", 3, None])
@pytest.mark.parametrize("what", ["segment", "file", "change"])
def test_names_in_the_manifest(three: Memory, mine: Path, what: str, name: Any) -> None:
    three.remove([0])
    three.close()
    name = str(mine / "deep") if name == "/ABSOLUTE/deep" else name
    before = kept(mine)

    def change(body: dict[str, Any]) -> None:
        if what == "segment":
            body["segments"][0]["name"] = name
        elif what == "change":
            body["deltas"][0] |= {"name": name, "ref": [1, "x"]}
        else:
            body["segments"][0]["files"][str(name)] = body["segments"][0]["files"].pop("ids.npy")

    edited(three.path, change)
    with pytest.raises(CorruptMemoryError, match=r"MANIFEST|manifest"):
        Memory.open(three.path)
    use(three.path)
    assert kept(mine) == before


LINKS = ("segments", "segments/000001", "segments/000001/vectors.f32.npy", "segments/000001/samples.jsonl", "MANIFEST")


@pytest.mark.parametrize("link", [*LINKS, "LOCK", "deltas", "cache", "cache/x", "left.tmp"])
def test_links_out_of_the_memory(three: Memory, mine: Path, link: str) -> None:
    three.close()
    before = kept(mine)
    place = three.path / link
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(mine / "notes.txt" if place.suffix or place.name in ("MANIFEST", "LOCK") else mine)
    if link in (*LINKS, "LOCK"):
        with pytest.raises(CorruptMemoryError, match=r"link|leaves"):
            read(three.path, write=link == "LOCK")
    use(three.path)
    assert kept(mine) == before


def test_a_link_into_a_folder_that_is_allowed(three: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three.close()
    shutil.move(three.path / "segments", tmp_path / "big disk")
    (three.path / "segments").symlink_to(tmp_path / "big disk")
    monkeypatch.setenv("KC_LINK_ROOTS", str(tmp_path / "big disk"))
    with Memory.open(three.path, write=True) as memory:
        assert memory.verify()["rows"] == 30
        assert memory.erase([3]) == 1


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("dim",), 0), (("dim",), 2**40), (("dim",), 7), (("dim",), "8"), (("number",), -1), (("number",), 2**70),
        (("next_id",), 1.5), (("salt",), "xyz"), (("fingerprint",), 3), (("info",), {"encoder": "x"}), (("more",), 1),
        (("segments", 0, "rows"), 10**12), (("segments", 0, "rows"), 0), (("segments", 0, "rows"), True),
        (("segments", 0, "files", "ids.npy"), [1]), (("segments", 0, "files", "ids.npy"), ["1", 2]),
        (("deltas", 0, "data"), "%%%"), (("deltas", 0, "data"), "eJwDAAAAAAE="), (("deltas", 0, "kind"), "x"),
        (("deltas", 0, "rows"), 10**15), (("versions", 0, "seq"), None), (("segments",), {}), (("deltas",), 3),
    ],
)  # fmt: skip
def test_values_in_the_manifest(three: Memory, keys: tuple[Any, ...], value: Any) -> None:
    three.remove([0])
    three.close()

    def change(body: dict[str, Any]) -> None:
        for key in keys[:-1]:
            body = body[key]
        body[keys[-1]] = value

    edited(three.path, change)
    with pytest.raises(CorruptMemoryError):
        read(three.path)
    use(three.path)
