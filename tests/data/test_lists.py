"""Class tables, class orders and image lists in the formats of others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from kc.cli import main
from kc.data.datamodule import IncrementalDataModule
from kc.data.lists import find, fingerprint, load_image_lists, load_table, read_array
from kc.data.manifest import load_manifest
from kc.data.split import build_tasks
from kc.errors import SplitError, UnknownNameError

IDS = [f"train/frame_{i}" for i in range(6)]


def test_the_tables_of_plop_are_streams_of_voc() -> None:
    """15-5s_b, from tasks.py: five steps of one class, 17, 3, 6, 18, 10."""
    manifest = load_manifest("voc2012")
    tasks = build_tasks(manifest, split="splits/voc-plop.yaml:15-5s_b")
    assert [t.class_ids for t in tasks[1:]] == [(17,), (3,), (6,), (18,), (10,)]
    assert tasks[0].class_ids[:4] == (0, 12, 9, 20)
    for name, ours in (("19-1", "19-1"), ("15-5", "15-5"), ("15-5s", "15-1"), ("10-1", "10-1")):
        table = build_tasks(manifest, split=f"splits/voc-plop.yaml:{name}")
        assert [t.class_ids for t in table] == [t.class_ids for t in build_tasks(manifest, split=ours)]
    every = yaml.safe_load(find("splits/voc-plop.yaml").read_text())
    assert len(every) == 27
    for name in every:
        assert sum(len(t.class_ids) for t in build_tasks(manifest, split=f"splits/voc-plop.yaml:{name}")) == 21


def test_the_orders_of_eclipse_are_orders_of_ade() -> None:
    manifest = load_manifest("ade20k-150")
    tasks = build_tasks(manifest, split="100-10", class_order="splits/ade20k-eclipse.yaml:b")
    assert tasks[0].class_ids[:5] == (74, 19, 119, 79, 77)
    assert tasks[-1].class_ids[-2:] == (93, 103)
    for name in "bcdefghij":
        assert len(load_table(f"splits/ade20k-eclipse.yaml:{name}", manifest.info).order) == 150
    coco = load_manifest("coco-panoptic")
    order = load_table("splits/coco-panoptic-eclipse.yaml:c", coco.info).order
    assert order[:3] == tuple(coco.class_ids()[i - 1] for i in (1, 3, 10))


def test_a_config_says_base_and_increment(tmp_path: Path, tiny_folder: SimpleNamespace) -> None:
    path = tmp_path / "continual.yaml"
    path.write_text("CONT: {BASE_CLS: 1, INC_CLS: 1, ORDER: [3, 1, 2]}")
    tasks = build_tasks(tiny_folder.manifest, split=str(path))
    assert [t.class_ids for t in tasks] == [(2,), (0,), (1,)]
    np.save(tmp_path / "order.npy", np.array([1, 2, 0]))
    tasks = build_tasks(tiny_folder.manifest, 3, class_order=tmp_path / "order.npy")
    assert [t.class_ids for t in tasks] == [(1,), (2,), (0,)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{a: {0: [0]}, b: {0: [0]}}", "holds 2 tables: a, b; say which"),
        ("{0: [0, 1], 2: [2]}", "expected 0, 1, 2"),
        ("{0: [0, 1], 1: [1]}", r"unknown or twice: \[1\], missing: \[2\]"),
        ("{0: [0, 1, 2, 9]}", r"unknown or twice: \[9\]"),
        ("{0: [], 1: [0, 1, 2]}", "every step needs a list"),
        ("CONT: {ORDER: [0, 1, 2]}", "positions from 1 to 3"),
        ("CONT: {BASE_CLS: 2, INC_CLS: 3}", "a whole number of steps of 3"),
        ("[1, 2]", "expected"),
        ("{", "cannot be read as YAML"),
    ],
)
def test_wrong_tables_are_named(text: str, said: str, tmp_path: Path, tiny_folder: SimpleNamespace) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(SplitError, match=said):
        build_tasks(tiny_folder.manifest, split=str(path))


def test_a_table_that_is_not_there(tiny_folder: SimpleNamespace) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean '15-5s_b'"):
        build_tasks(load_manifest("voc2012"), split="splits/voc-plop.yaml:15-5s_bb")
    with pytest.raises(SplitError, match="no such file, neither here nor in"):
        build_tasks(tiny_folder.manifest, split="nowhere.yaml")
    with pytest.raises(SplitError, match="leave --class-order out"):
        build_tasks(load_manifest("voc2012"), split="splits/voc-plop.yaml:15-5", class_order="shuffle:1")
    with pytest.raises(SplitError, match="give it as --class-order"):
        build_tasks(load_manifest("ade20k-150"), split="splits/ade20k-eclipse.yaml:b")


def test_image_lists_in_three_formats(tmp_path: Path) -> None:
    mib, text, table = tmp_path / "mib", tmp_path / "text", tmp_path / "mya.npy"
    for folder in (mib, text):
        folder.mkdir()
    np.save(mib / "train-0.npy", np.array([5, 0, 2]))
    np.save(mib / "train-1.npy", np.array([1.0, 3.0]))
    (text / "train-0.txt").write_text("frame_5\ntrain/frame_0\nframe_2\n")
    (text / "train-1.txt").write_text("1\n3\n")
    flags = np.zeros((6, 2))
    flags[[0, 2, 5], 0] = flags[[1, 3], 1] = 1
    np.save(table, flags)
    for place in (mib, text, table):
        assert [rows.tolist() for rows in load_image_lists(place, 2, IDS)] == [[0, 2, 5], [1, 3]]
    assert fingerprint(mib) != fingerprint(text)
    with pytest.raises(SplitError, match=r"no train-2\.npy and no train-2\.txt"):
        load_image_lists(mib, 3, IDS)
    with pytest.raises(SplitError, match=r"holds train-1\.npy too"):
        load_image_lists(mib, 1, IDS)
    with pytest.raises(SplitError, match=r"expected zeros and ones of 6 images in 3 steps"):
        load_image_lists(table, 3, IDS)
    np.save(mib / "train-1.npy", np.array([6]))
    with pytest.raises(SplitError, match="rows from 0 to 5"):
        load_image_lists(mib, 2, IDS)
    np.save(mib / "train-1.npy", np.array([3, 3]))
    with pytest.raises(SplitError, match="1 images are there twice"):
        load_image_lists(mib, 2, IDS)
    (text / "train-1.txt").write_text("frame_9\n")
    with pytest.raises(SplitError, match="1 names are of no training image, such as 'frame_9'"):
        load_image_lists(text, 2, IDS)
    (text / "train-1.txt").write_text("")
    with pytest.raises(SplitError, match="step 1 has no image"):
        load_image_lists(text, 2, IDS)


def test_pickled_lists_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.array([[1], [1, 2]], dtype=object), allow_pickle=True)
    with pytest.raises(SplitError, match="pickled objects, which can run code when they are read: refused"):
        read_array(tmp_path / "p.npy")
    np.save(tmp_path / "f.npy", np.array([0.5]))
    with pytest.raises(SplitError, match="whole numbers"):
        read_array(tmp_path / "f.npy")


def test_split_writes_what_is_read_back(
    tiny_index_png: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command's own files, read as lists and table, make the stream that it showed."""
    out = tmp_path / "lists"
    status = main(["data", "split", str(tiny_index_png.path), "--data-root", str(tiny_index_png.root), "--split", "2-1",
                   "--setting", "disjoint", "--out", str(out)])  # fmt: skip
    assert status == 0
    assert "setting disjoint" in capsys.readouterr().out
    options = {"data_root": tiny_index_png.root, "cache_samples": False}
    wanted = IncrementalDataModule(tiny_index_png.path, split="2-1", setting="disjoint", **options)
    found = IncrementalDataModule(tiny_index_png.path, split=str(out / "tasks.yaml"), image_lists=out, **options)
    assert found.tasks == wanted.tasks
    for t in range(3):
        assert found.dataset("train", t).sample_ids == wanted.dataset("train", t).sample_ids
    order = build_tasks(tiny_index_png.manifest, split="2-1", class_order=out / "order.txt")
    assert order == wanted.tasks
    with pytest.raises(SplitError, match="do not go with --limit-images"):
        IncrementalDataModule(tiny_index_png.path, image_lists=out, limit_images=3)
