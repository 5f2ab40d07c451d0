"""What a memory says of itself: it survives JSON, disk and export, and is refused where it is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kc.errors import CorruptMemoryError, DataError, RunError
from kc.memory.disk import Memory
from kc.memory.store import exchange
from kc.memory.store import manifest as manifests
from kc.memory.store.info import MemoryInfo
from kc.types import ClassInfo, Rows

CLASSES = {
    0: ClassInfo(0, "background", background=True),
    255: ClassInfo(255, "puma", ("cougar", "catamount"), is_thing=True, color=(1, 2, 3)),
}
INFO = MemoryInfo(
    encoder="lite0",
    kind="semantic",
    input_size=(96, 128),
    classes=CLASSES,
    proposals="superpixels",
    keys="masked",
    purity=0.7,
    benchmark="digit-scenes",
    base="naclip",
    method="knn",
    options={"knn": {"k": 16, "vote": "softmax", "tau": 0.07}, "naclip": {"pamr-steps": 10}},
)


def test_every_field_survives_json() -> None:
    assert MemoryInfo.from_json(json.loads(json.dumps(INFO.to_json()))) == INFO
    plain = MemoryInfo("lite0", "classification", (28, 28))
    assert MemoryInfo.from_json(json.loads(json.dumps(plain.to_json()))) == plain


@pytest.mark.parametrize(
    "field",
    [
        {"encoder": ""},
        {"kind": "depth"},
        {"keys": "raw"},
        {"input_size": (0, 3)},
        {"input_size": (3,)},
        {"purity": 0.0},
        {"classes": {1: ClassInfo(2, "two")}},
        {"classes": {-1: ClassInfo(-1, "void")}},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_named(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        replace(INFO, **field)


def test_names_change_and_what_else_is_known_stays() -> None:
    names = {255: "cougar", 7: "new"}
    changed = INFO.with_names(names)
    assert changed.class_names == names
    assert changed.classes[255] == replace(CLASSES[255], name="cougar")
    assert replace(changed, classes=CLASSES) == INFO


def test_it_is_stored_at_creation_and_updated_durably(tmp_path: Path, rows: Callable[..., Rows]) -> None:
    path = tmp_path / "m"
    with Memory.create(path, dim=8, fingerprint="f", info=INFO) as memory:
        memory.add(rows(3), 0)
        memory.commit(0)
        assert Memory.open(path).info == INFO
        changed = INFO.with_names({0: "nothing"})
        with memory.with_info(changed):
            pass
        assert len(memory) == 3
        memory.export(tmp_path / "out.npz")
    assert Memory.open(path).info == changed
    with Memory.create_from(tmp_path / "copy", tmp_path / "out.npz") as copy:
        assert copy.info == changed
    with pytest.raises(RunError, match="reading"):
        Memory.open(path).with_info(INFO).__enter__()


def test_a_memory_without_it_says_what_to_do(tmp_path: Path) -> None:
    with Memory.create(tmp_path / "m", dim=8, fingerprint="f") as memory, pytest.raises(RunError, match="memory build"):
        _ = memory.info


def test_a_record_that_nobody_wrote_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MemoryInfo, "to_json", lambda info: {"encoder": "x", "classes": [], "input_size": [0, 0]})
        Memory.create(tmp_path / "m", dim=8, fingerprint="f", info=INFO).close()
    with pytest.raises(CorruptMemoryError, match="MANIFEST"):
        manifests.load(tmp_path / "m")


def test_an_export_of_the_old_numbering_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(exchange, "VERSION", 1)
    with Memory.create(tmp_path / "m", dim=8, fingerprint="f") as memory:
        memory.export(tmp_path / "old.npz")
        monkeypatch.undo()
        with pytest.raises(DataError, match="version 1"):
            memory.import_rows(tmp_path / "old.npz")
