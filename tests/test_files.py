"""Atomic writes and names of files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from kc.compare import new_folder
from kc.config import RunConfig
from kc.errors import RunError
from kc.files import LONGEST_NAME, atomic_folder, atomic_path, file_name, name_of, write_atomic


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40))
def test_a_name_of_a_file_reads_back_and_stays_in_its_folder(name: str) -> None:
    made = file_name(name)
    assert len(made) == LONGEST_NAME or name_of(made) == name
    assert made
    assert not made.startswith(".")
    assert "/" not in made
    assert len(made.encode()) <= LONGEST_NAME


def test_names_never_collide() -> None:
    names = ["a/b.png", "a__b.png", "a%2Fb.png", "a-b.png", "a:b.png", "x" * 400, "x" * 401, "", "%", ".", ".."]
    assert len({file_name(name) for name in names}) == len(names)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    write_atomic(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_bytes(b"1" * (1 // 0))
    with pytest.raises(RunError, match=str(path)), atomic_path(path) as temporary:
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["b"]


def test_only_the_failures_of_the_writer_are_translated(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a", failures=()):
        raise FileNotFoundError
    with pytest.raises(RunError), atomic_path(tmp_path / "a", failures=(RuntimeError,)):
        raise RuntimeError("disk")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "a") as folder:
        (folder / "file").write_text("1" * (1 // 0))
    assert not list(tmp_path.iterdir())
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "file").write_text(text)
    assert (tmp_path / "a" / "file").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["x" * 250, "\u68a8" * 83])
def test_names_as_long_as_a_file_system_takes_make_folders(name: str, tmp_path: Path) -> None:
    folder = new_folder(RunConfig(benchmark=str(tmp_path / f"{name}.yaml"), out=tmp_path))
    assert name.startswith(folder.name.split("-", 2)[2])
    assert 110 < len(folder.name.split("-", 2)[2].encode()) <= 120
    assert folder.is_dir()


def test_files_and_folders_have_the_rights_that_the_umask_gives(tmp_path: Path) -> None:
    """Also what safetensors writes, which gives its files to their owner alone."""
    before = os.umask(0o002)
    try:
        with atomic_path(tmp_path / "weights.safetensors") as temporary:
            save_file({"a": torch.zeros(2)}, temporary)
        write_atomic(tmp_path / "text", b"x")
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == {"weights.safetensors": 0o664, "text": 0o664, "folder": 0o775}
