"""What files are now: any other content has another key, a copy has the same, and nothing is read twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kc.data import stamps
from kc.data.readers.open import content_key, open_reader
from kc.data.stamps import differences, folder_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "data"
    (top / "a").mkdir(parents=True)
    for name in ("a/0.png", "a/1.png", "b.txt"):
        (top / name).write_text(f"{name:8}")
    return top


def test_a_file_of_the_same_size_and_time_with_other_content_is_another_key(folder: Path) -> None:
    before, time = folder_key(folder), os.stat(folder / "b.txt").st_mtime_ns
    (folder / "b.txt").write_text("B.txt   ")
    os.utime(folder / "b.txt", ns=(time, time))
    assert folder_key(folder) != before
    assert differences(before, folder_key(folder)) == "1 files changed: b.txt"


def test_two_files_exchanged_are_another_key(folder: Path) -> None:
    before = folder_key(folder)
    for one, other in (("0", "x"), ("1", "0"), ("x", "1")):
        (folder / f"a/{one}.png").rename(folder / f"a/{other}.png")
    assert differences(before, folder_key(folder)) == "2 files changed: a/0.png, a/1.png"


def test_a_link_to_another_folder_is_another_key(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "v2")
    (tmp_path / "v2" / "b.txt").write_text("B.txt   ")
    top = tmp_path / "top"
    top.mkdir()
    (top / "data").symlink_to(folder)
    before = folder_key(top)
    (top / "data").unlink()
    (top / "data").symlink_to(tmp_path / "v2")
    assert folder_key(top) != before
    (top / "data").unlink()
    (top / "data").symlink_to(folder)
    assert folder_key(top) == before


def test_a_copy_has_the_same_key_and_times_alone_change_nothing(tmp_path: Path, folder: Path) -> None:
    before = folder_key(folder)
    shutil.copytree(folder, tmp_path / "copy")
    os.utime(folder / "b.txt")
    assert folder_key(tmp_path / "copy") == folder_key(folder) == before


def test_only_files_whose_stamp_changed_are_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_key(folder)
    read: list[str] = []
    content = stamps._content
    monkeypatch.setattr(stamps, "_content", lambda file: read.append(file.name) or content(file))
    folder_key(folder)
    assert read == []
    (folder / "b.txt").write_text("other   ")
    folder_key(folder)
    assert read == ["b.txt"]


def test_large_folders_are_known_by_stamps_and_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "MOST_FILES", 2)
    monkeypatch.setattr(stamps, "_content", lambda file: pytest.fail("read"))
    before = folder_key(folder)
    assert before.startswith("stamps-")
    assert folder_key(folder) == before
    os.utime(folder / "b.txt")
    assert differences(before, folder_key(folder)) == "1 files touched, moved or changed: b.txt"


def test_links_that_lead_nowhere_or_back_and_runs_do_not_stop_it(folder: Path) -> None:
    (folder / "gone").symlink_to("nowhere")
    (folder / "loop").symlink_to(folder)
    before = folder_key(folder)
    for name in ("1", "20261130-235814-tiny"):  # the second has only begun
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "config.yaml").write_text("{}")
    (folder / "runs" / "1" / "fingerprints.yaml").write_text("{}")
    (folder / "runs" / "1" / "results.json").write_text("{}")
    assert folder_key(folder) == before


def test_a_damaged_table_of_stamps_is_made_again(folder: Path, kc_cache: Path) -> None:
    before = folder_key(folder)
    for path in (kc_cache / "content").iterdir():
        path.write_bytes(path.read_bytes()[:-3])
    assert folder_key(folder) == before


def test_a_mask_exchanged_for_one_of_the_same_size_and_time_is_read(tiny_index_png: SimpleNamespace) -> None:
    reader = open_reader(tiny_index_png.manifest, "test", tiny_index_png.root)
    before, key = reader.class_table, content_key(tiny_index_png.manifest, tiny_index_png.root)
    mask = tiny_index_png.folder / "labels" / "test"
    path = sorted(mask.iterdir())[0]
    stat = path.stat()
    ids = np.asarray(Image.open(path))
    Image.fromarray(np.full_like(ids, 9 if (ids == 0).any() else 0)).save(path)
    path.write_bytes(path.read_bytes().ljust(stat.st_size, b"\0")[: max(stat.st_size, path.stat().st_size)])
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    after = open_reader(tiny_index_png.manifest, "test", tiny_index_png.root).class_table
    assert before[0].tolist() != after[0].tolist()
    assert content_key(tiny_index_png.manifest, tiny_index_png.root) != key


def test_a_file_called_as_one_of_a_run_hides_no_data(folder: Path) -> None:
    (folder / "fingerprints.yaml").write_text("mine")
    before = folder_key(folder)
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "fingerprints.yaml").write_text("mine too")
    (folder / "images" / "new.png").write_bytes(b"new")
    assert folder_key(folder) != before
