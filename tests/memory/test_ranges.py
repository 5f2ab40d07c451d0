"""What cannot be stored exactly is refused before anything is staged, allocated or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kc.cli import main
from kc.memory.disk import Memory
from kc.types import Rows

BIG = [2**63, 2**64 - 1, 2**70, -1]


def state(memory: Memory) -> tuple[bytes, list[str]]:
    paths = sorted(str(p) for p in memory.path.rglob("*"))
    return (memory.path / "MANIFEST").read_bytes(), paths


@pytest.mark.parametrize(
    "wrong",
    [
        *({"class_id": np.array([0, value], np.uint64 if value > 0 else np.int64)} for value in (2**63, -1)),
        {"class_id": np.array([0, 1.5])},
        {"class_id": np.array([0, 2**70], object)},
        {"segment": np.array([0, 1.5])},
        {"segment": np.array([0, 2**63], np.uint64)},
        {"weight": np.array([1, 1e39])},
        {"weight": np.array([1, 1e-50])},
        {"weight": np.array([1, np.nan])},
        {"weight": np.array([1, np.inf])},
        {"weight": np.array(["1", "2"])},
        {"keys": np.full((2, 8), np.nan)},
        {"keys": np.full((2, 8), 1e300)},
        {"keys": np.full((2, 8), np.inf)},
        {"keys": np.eye(2, 7)},
        {"keys": np.eye(2, 8).astype(complex)},
        {"keys": np.eye(2, 8).astype(str)},
        {"sample_id": ("a", 3)},
        {"source": 7},
    ],
    ids=lambda wrong: f"{next(iter(wrong))}-{next(iter(wrong.values()))!r}"[:40],
)
def test_rows(three: Memory, rows: Callable[..., Rows], wrong: dict[str, Any]) -> None:
    before = state(three)
    with pytest.raises(ValueError, match=r"must|have length"):
        three.add(replace(rows(2), **wrong), 3)
    assert len(three._staging) == 0
    assert state(three) == before


@pytest.mark.parametrize("value", [*BIG, 2**62, 1.5, True, "1"])
def test_tasks(three: Memory, rows: Callable[..., Rows], value: Any) -> None:
    before = state(three)
    for act in (lambda: three.add(rows(2), value), lambda: three.commit(value)):
        with pytest.raises(ValueError, match="task must be"):
            act()
    assert state(three) == before
    assert three.commit(np.int64(5)) == 0
    assert Memory.open(three.path).versions()[-1].task == 5


@pytest.mark.parametrize("dim", [0, -1, 2**21, 10**12, 1.5, True])
def test_dimensions(tmp_path: Path, dim: Any) -> None:
    with pytest.raises(ValueError, match="dim must be"):
        Memory.create(tmp_path / "m", dim=dim, fingerprint="f")
    assert not (tmp_path / "m").exists()


def test_changes(three: Memory) -> None:
    before = state(three)
    for weight in (1e39, 1e-50, np.nan, -1.0, "x"):
        with pytest.raises(ValueError, match="weights"):
            three.reweight([0], weight)
    for class_id in (2**63, 2**70, -1, 1.5):
        with pytest.raises(ValueError, match="class ids"):
            three.relabel([0], [class_id])
    for ids in ([2**63], [2**70], [0.5], ["0"]):
        for act in (three.keys, three.rows_of, three.remove, three.erase):
            with pytest.raises(ValueError, match="ids must be integers"):
                act(ids)
    with pytest.raises(ValueError, match="exclude_ids"):
        three.search(np.eye(1, 8), 1, exclude_ids=[0.5])
    assert state(three) == before


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_queries_of_any_length_have_a_direction(three: Memory, rows: Callable[..., Rows], scale: float) -> None:
    query = rows(3, seed=1).keys.astype(np.float64)
    want, found = three.search(query, 5), three.search(query * scale, 5)
    assert np.array_equal(found.id, want.id)
    assert np.allclose(found.score, want.score, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["snapshot", "DIR", "--task", str(2**63)], "--task 9223372036854775808"),
        (["snapshot", "DIR", "--task", "9" * 400], "--task"),
        (["snapshot", "DIR", "--task", "²"], "--task ²"),
        (["remove", "DIR", "--ids", "1-1000000000"], "stores no row with id 30, 31"),
        (["remove", "DIR", "--ids", f"1-{2**63 - 1}"], "stores no row with id 30, 31"),
        (["remove", "DIR", "--ids", "9" * 30], "expected ids such as"),
        (["remove", "DIR", "--ids", "²"], "expected ids such as"),
        (["verify", "DIR", "--absent", "1-1000000000"], "stores no row with id 30, 31"),
        (["remove", "DIR", "--task", "²"], "tasks counted from 1"),
        (["remove", "DIR", "--task", str(2**63 + 1)], "tasks counted from 1"),
        (["remove", "DIR", "--class", "²"], "²"),
        (["remove", "DIR", "--class", str(2**63)], "class"),
        (["diff", "DIR", "²"], "no version of task ²"),
        (["reweight", "DIR", "--ids", "0", "--weight", "1e39"], "--weight 1e+39"),
        (["reweight", "DIR", "--ids", "0", "--weight", "1e-50"], "--weight 1e-50"),
    ],
)
def test_commands(three: Memory, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    three.close()
    before = state(three)
    assert main(["memory", *(a.replace("DIR", str(three.path)) for a in arguments)]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error
    assert "Traceback" not in error
    assert state(three) == before
