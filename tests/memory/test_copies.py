"""Forgetting reaches what kc copied out of a memory, and names what it cannot reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kc.cli import main
from kc.files import cache_dir, hashed_path
from kc.memory.copies import erase_copies
from kc.memory.disk import Memory
from kc.memory.erasure import NOT_ERASED, traces
from kc.memory.store import exchange
from kc.types import Rows


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches and temporary files of this test alone."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("KC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def run(three: Memory, tmp_path: Path) -> Path:
    """The memory of a run, whose W&B artifacts wait to be uploaded."""
    three.close()
    folder = tmp_path / "runs" / "one"
    shutil.copytree(three.path, folder / "methods" / "knn-s0" / "memory")
    (folder / "config.yaml").write_text("")
    staging = folder / "wandb" / "artifacts" / "staging"
    staging.mkdir(parents=True)
    for i, path in enumerate(sorted(p for p in three.path.rglob("*") if p.is_file())):
        shutil.copy(path, staging / f"tmp{i:03d}")
    (staging / "tmpresult").write_text('{"t0-3": 1, "rows": "t1-4"}')
    return folder


def holding(folder: Path, *patterns: bytes) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and any(x in p.read_bytes() for x in patterns)]


def test_what_waits_for_wandb_loses_the_files_with_the_rows(run: Path) -> None:
    path = run / "methods" / "knn-s0" / "memory"
    keys = Memory.open(path).keys([3])
    n_staged = len(list((run / "wandb").rglob("tmp*")))
    assert len(holding(run / "wandb", keys.tobytes(), b'"t0-3"\n')) == 2
    assert main(["forget", "--memory", str(path), "--ids", "3"]) == 0
    assert holding(run, keys.tobytes(), b'"t0-3"\n') == []
    assert len(list((run / "wandb").rglob("tmp*"))) == n_staged - 2  # nothing else, not the record of results
    assert len(Memory.open(path)) == 29


def test_links_out_of_the_run_are_not_followed(run: Path, tmp_path: Path) -> None:
    path = run / "methods" / "knn-s0" / "memory"
    shutil.move(run / "wandb", tmp_path / "elsewhere")
    (run / "wandb").symlink_to(tmp_path / "elsewhere")
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    assert main(["forget", "--memory", str(path), "--ids", "3"]) == 0
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before


def test_caches_of_the_image_are_dropped(three: Memory) -> None:
    place = cache_dir() / "derived" / "some-benchmark" / "features" / "enc" / "8x8"
    kept, gone = hashed_path(place, "t0-2", ".f16"), hashed_path(place, "t0-3", ".f16")
    regions = hashed_path(cache_dir() / "derived" / "other" / "regions", "t0-3", ".regions")
    killed, at_work = (gone.parent / f".{digit * 32}.tmp" for digit in "01")
    elsewhere = gone.parents[1] / "zz" / killed.name
    for file in (kept, gone, regions, killed, at_work, elsewhere):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    for file in (killed, elsewhere):
        os.utime(file, (0, 0))
    found = traces(three, [3])
    three.erase([3])
    done = erase_copies(three.path, found)
    assert sorted(done.removed) == sorted(map(str, (gone, regions, killed)))
    assert [text.split(":")[0] for text in done.left[: -len(NOT_ERASED)]] == [str(at_work)]
    assert [p.exists() for p in (kept, gone, regions, killed, at_work, elsewhere)] == [
        True,
        False,
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_a_copy_that_cannot_be_read_is_named(three: Memory, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rows.{ending}"
    three.export(file)
    file.write_bytes(file.read_bytes()[:-9])
    gone = traces(three, [3])
    three.erase([3])
    assert str(file) in erase_copies(three.path, gone).left[0]


@pytest.mark.parametrize("ending", ["npz", "parquet"])
@pytest.mark.parametrize("keep", [False, True])
def test_exports_are_written_again_or_named(
    three: Memory, tmp_path: Path, ending: str, keep: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    file, moved = tmp_path / f"rows.{ending}", tmp_path / f"moved.{ending}"
    three.export(file)
    three.export(moved)
    moved.unlink()
    gone = traces(three, [3, 14])
    three.close()
    command = ["forget", "--memory", str(three.path), "--ids", "3,14", *(["--keep-exports"] if keep else [])]
    assert main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"rows.{ending}: 2 of the rows" in said
    header, tables = exchange.read(file)
    ids = np.concatenate([t.ids for t in tables]).tolist()
    assert ids == [i for i in range(30) if keep or i not in (3, 14)]
    assert header.rows == len(ids)
    assert bool(holding(file.parent, *(k.tobytes() for k in gone.keys))) == keep


def test_an_export_of_another_memory_under_the_same_name_is_left(
    three: Memory, tmp_path: Path, rows: Callable[..., Rows]
) -> None:
    three.export(tmp_path / "rows.npz")
    with Memory.create(tmp_path / "other", dim=8, fingerprint="enc:1") as other:
        other.add(rows(10, prefix="o", seed=9), 0)
        other.commit(0)
        other.export(tmp_path / "rows.npz")
    before = (tmp_path / "rows.npz").read_bytes()
    gone = traces(three, [3])
    three.erase([3])
    assert erase_copies(three.path, gone).removed == ()
    assert (tmp_path / "rows.npz").read_bytes() == before


def test_what_killed_processes_left_is_removed_and_that_of_others_is_not(three: Memory, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f"kc-{dead.pid}-a", f"kc-{os.getpid()}-b", "kc-x-c"):
        shutil.copytree(three.path, tmp_path / "tmp" / name / "memory")
    three.export(tmp_path / "out" / "rows.npz")
    torn = tmp_path / "out" / f".{'0' * 32}.tmp"
    shutil.copy(tmp_path / "out" / "rows.npz", torn)
    gone = traces(three, [3])
    three.erase([3])
    removed = erase_copies(three.path, gone).removed
    assert removed[:2] == (str(tmp_path / "tmp" / f"kc-{dead.pid}-a"), str(torn))
    assert sorted(p.name for p in (tmp_path / "tmp").iterdir()) == sorted([f"kc-{os.getpid()}-b", "kc-x-c"])


def test_other_memories_of_the_run_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "methods" / "knn-s0" / "memory"
    shutil.copytree(path, run / "methods" / "knn-clip-s0" / "memory")
    (run / "methods" / "knn-clip-s0" / "last.ckpt").write_bytes(b"x" + Memory.open(path).keys([3]).tobytes())
    gone = traces(Memory.open(path), [3])
    left = erase_copies(path, gone).left
    assert left[0].startswith(f"{run}/methods/knn-clip-s0/memory: 1 rows")
    assert left[1] == f"{run}/methods/knn-clip-s0/last.ckpt: keys of the rows"
    assert any("W&B" in sentence for sentence in left)
