"""`kc memory` as a user types it, on small memories."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kc.cli import main
from kc.memory.disk import Memory
from kc.memory.store.info import MemoryInfo
from kc.types import ClassInfo, Rows


def info_with(names: dict[int, str]) -> MemoryInfo:
    classes = {i: ClassInfo(i, name) for i, name in names.items()}
    return MemoryInfo("lite0", "classification", (32, 32), classes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three tasks of four rows; task t has classes 2t and 2t + 1; ids 4t..4t+3."""
    path = tmp_path / "memory"
    names = ["zero", "one", "two", "three", "four", "five"]
    with Memory.create(path, dim=8, fingerprint="e:1", info=info_with(dict(enumerate(names)))) as memory:
        for t in range(3):
            keys = np.random.default_rng(t).normal(size=(4, 8))
            keys = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)
            classes = np.array([2 * t, 2 * t, 2 * t + 1, 2 * t + 1])
            samples = tuple(f"s{t}-{i}" for i in range(4))
            memory.add(Rows(keys, classes, samples, np.zeros(4, np.int64), "ab"[t % 2]), t)
            memory.commit(t)
    return path


def kc(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    action, *rest = map(str, arguments)
    command = ["forget", "--memory", *rest] if action == "forget" else ["memory", action, *rest]
    assert main(command) == status
    said = capsys.readouterr()
    return " ".join((said.err if status == 2 else said.out).split())


def ids(folder: Path) -> list[int]:
    return Memory.open(folder).ids().tolist()


def test_stats(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = kc(capsys, "stats", folder)
    for part in ("rows 12", "classes 6", "tasks 1-3", "8 values of encoder e:1", "│ three │ 3 │ 2 │ 2"):
        assert part in said
    assert "rows 8" in kc(capsys, "stats", folder, "--at", 2)
    assert main(["memory", "remove", str(folder), "--task", "1"]) == 0
    capsys.readouterr()
    assert "rows 8 and 4 retired" in kc(capsys, "stats", folder)


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        (["--class", "two,5"], [0, 1, 2, 3, 6, 7, 8, 9]),
        (["--ids", "0-2,11"], [3, 4, 5, 6, 7, 8, 9, 10]),
        (["--source", "b"], [0, 1, 2, 3, 8, 9, 10, 11]),
        (["--task", "1,2"], [8, 9, 10, 11]),
        (["--sample", "s0-0,s2-3"], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (["--source", "a", "--class", "zero", "--ids", "1-9"], [0, *range(2, 12)]),
    ],
)
@pytest.mark.parametrize("action", ["remove", "forget"])
def test_rows_are_taken_out_by_every_filter(
    folder: Path, capsys: pytest.CaptureFixture[str], action: str, filters: list[str], left: list[int]
) -> None:
    n = 12 - len(left)
    before = (folder / "MANIFEST").read_bytes()
    said = kc(capsys, action, folder, *filters, "--dry-run")
    assert f"would {'erase' if action == 'forget' else action} {n} row" in said
    assert f"rows: 12 before, {len(left)} after" in said
    assert (folder / "MANIFEST").read_bytes() == before
    said = kc(capsys, action, folder, *filters)
    assert f"rows: 12 before, {len(left)} after" in said
    assert ids(folder) == left
    memory = Memory.open(folder)
    stored = memory.ids(retired=True).tolist()
    assert stored == (left if action == "forget" else list(range(12)))
    if action == "forget":
        assert f"absent: {n} ids, {n} keys" in said
        assert "answers to 12 queries are bitwise those of a memory that never had the rows" in said
        assert "the encoder: it may have been trained on the image" in said
    else:
        assert "versions committed before still show them" in said


def test_what_was_removed_can_be_erased(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kc(capsys, "remove", folder, "--class", "zero")
    said = kc(capsys, "forget", folder, "--class", "zero,one")
    assert "erased 4 rows, 2 of them retired before" in said
    assert "rows: 10 before, 8 after" in said


def test_nothing_met(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no row meets the filters" in kc(capsys, "remove", folder, "--source", "nobody")
    assert "no row meets the filters" in kc(capsys, "remove", folder, "--source", "nobody", "--strict", status=1)
    kc(capsys, "forget", folder, "--class", "zero", "--task", "2", "--strict", status=1)
    assert ids(folder) == list(range(12))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stat", "DIR"], "Did you mean 'stats'"),
        (["stats", "DIR", "--ids", "3"], "unknown option --ids of kc memory stats"),
        (["stats", "DIR", "x.npz"], "x.npz"),
        (["stats", "DIR", "--att", "3"], "did you mean --at"),
        (["stats", "DIR", "--at", "4"], "no version of task 4; tasks with one: 1, 2, 3"),
        (["diff", "DIR"], "FIRST"),
        (["diff", "DIR", "1", "x"], "no version of task x"),
        (["remove", "DIR"], "say which rows: --ids, --class"),
        (["remove", "DIR", "--class", "zeroo"], "Did you mean 'zero'"),
        (["remove", "DIR", "--ids", "3-1"], "expected ids such as 3,7,10-20"),
        (["forget", "DIR", "--ids", "3,12,40"], "stores no row with id 12, 40"),
        (["remove", "DIR", "--ids", "3,90-92"], "stores no row with id 90, 91, 92"),
        (["search", "DIR", "x.png", "--k", "0"], "--k 0"),
        (["search", "DIR"], "IMAGE"),
        (["search", "DIR", "x.png", "y.png"], "y.png"),
        (["remove", "DIR", "--task", "0"], "tasks counted from 1"),
        (["remove", "DIR", "--task", ","], "expected a value"),
        (["export", "DIR"], "FILE"),
        (["export", "DIR", "x.csv"], "rows are exchanged as .parquet or .npz"),
        (["import", "DIR", "x.npz"], "no such file"),
        (["verify", "DIR", "x.npz"], "needs --absent IDS"),
        (["stats", "DIR/none"], "no memory in"),
    ],
)
def test_what_cannot_work_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in kc(capsys, *(a.replace("DIR", str(folder)) for a in arguments), status=2)
    assert ids(folder) == list(range(12))


def test_versions_and_diff(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Memory.open(folder, write=True) as memory:
        memory.relabel([0, 1, 2], [1, 1, 4])
        memory.reweight([5], [0.5])
        memory.remove([11])
    said = kc(capsys, "versions", folder)
    assert "│ 2 │ 8 │ 4 │ 0 │ 0 │ 0" in said
    assert "│ now │ 11 │ 0 │ 1 │ 3 │ 1" in said
    said = kc(capsys, "diff", folder, "2")
    for part in ("added │ 3 │ four, five │ 8-10", "reweighted │ 1 │ two │ 5", "relabelled │ 2 │ zero to one │ 0-1",
                 "relabelled │ 1 │ one to four │ 2"):  # fmt: skip
        assert part in said
    assert "added │ 4 │ two, three │ 4-7" in kc(capsys, "diff", folder, "1", "2")
    assert "nothing differs" in kc(capsys, "diff", folder, "2", "2")


def test_export_import_and_proof(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, copy = tmp_path / "all.npz", tmp_path / "copy"
    kc(capsys, "export", folder, "--dry-run", file)
    assert not file.exists()
    assert "12 rows" in kc(capsys, "export", folder, file)
    assert "8 rows" in kc(capsys, "export", folder, "--at", 2, tmp_path / "two.npz")
    assert "would make" in kc(capsys, "import", copy, file, "--dry-run")
    assert not copy.exists()
    kc(capsys, "import", copy, tmp_path / "two.npz")
    assert "would add 4 of 12 rows" in kc(capsys, "import", copy, file, "--dry-run")
    assert len(ids(copy)) == 8
    assert "added 4 of 12 rows" in kc(capsys, "import", copy, file)
    assert np.array_equal(Memory.open(copy).keys(range(12)), Memory.open(folder).keys(range(12)))
    assert "added 0 of 12 rows" in kc(capsys, "import", copy, file)
    assert "holds the key of 1 of the rows (7)" in kc(capsys, "verify", folder, file, "--absent", "7", status=1)
    kc(capsys, "forget", folder, "--ids", "7,8", "--keep-exports")
    assert "absent: 2 ids, 2 keys, 2 names" in kc(capsys, "verify", folder, file, "--absent", "7-8")
    said = kc(capsys, "verify", folder, "--absent", "7")
    assert "absent: 1 ids, 0 keys, 0 names" in said
    assert "answers to 10 queries are bitwise" in said
    assert "only ids were looked for" in said


def test_answers_that_differ_are_no_proof(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kc.memory.erasure.compare_with_rebuilt", lambda *_: SimpleNamespace(equal=False, queries=3))
    said = kc(capsys, "forget", folder, "--ids", "7", status=1)
    assert said.endswith("answers differ from those of a memory that never had the rows")
    assert "[bold]" not in said


def test_compact_and_repair(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kc(capsys, "remove", folder, "--ids", "3")
    assert "drop 1 retired row" in kc(capsys, "compact", folder, "--drop-history", "--dry-run")
    assert len(Memory.open(folder).versions()) == 3
    assert "segments: 3 before, 1 after" in kc(capsys, "compact", folder)
    assert len(Memory.open(folder).versions()) == 3
    kc(capsys, "compact", folder, "--drop-history")
    assert len(Memory.open(folder).versions()) == 1
    (folder / "segments" / "000099").mkdir()
    assert "segments/000099" in kc(capsys, "verify", folder)
    assert "would remove segments/000099" in kc(capsys, "repair", folder, "--dry-run")
    assert "removed segments/000099" in kc(capsys, "repair", folder)
    assert "nothing to repair" in kc(capsys, "repair", folder)


def test_help_is_fast() -> None:
    code = "import sys; from kc.cli import main; main(['memory', '--help']); main(['memory', 'remove', '--help'])\n"
    code += "assert not {'torch', 'faiss', 'rich.console'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--dry-run" in done.stdout
    assert "--encoder" not in done.stdout  # of other actions


def test_names_with_brackets_are_names_and_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "[red] memory, \u00fcber"
    names = {0: "[red]", 1: "lamp [/off], \u00fc"}
    with Memory.create(path, dim=2, fingerprint="e:1", info=info_with(names)) as memory:
        memory.add(Rows(np.eye(2, dtype=np.float32), np.array([0, 1]), ("[a]", "[/b]"), np.zeros(2, np.int64)), 0)
        memory.commit(0)
    said = kc(capsys, "stats", path)
    assert "[red]" in said
    assert "lamp [/off], \u00fc" in said
    assert "[red] memory, \u00fcber" in kc(capsys, "export", path, path.with_suffix(".npz"))
