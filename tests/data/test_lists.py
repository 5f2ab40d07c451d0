"""Class tables, class orders and image lists in the formats of others."""

from __future__ import annotations

import json
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
    assert len(yaml.safe_load(find("splits/ade20k-mib.yaml").read_text())) == 6
    for name, sizes in {"100-50": [100, 50], "100-10": [100, 10, 10, 10, 10, 10], "50": [50, 50, 50]}.items():
        for order in "bc":
            tasks = build_tasks(manifest, split=f"splits/ade20k-mib.yaml:{name}{order}")
            assert [len(t.class_ids) for t in tasks] == sizes
    assert tasks[2].class_ids[:4] == (2, 3, 4, 7)
    last = build_tasks(manifest, split="splits/ade20k-mib.yaml:100-10b")[-1]
    assert last.class_ids == (17, 20, 59, 68, 83, 94, 102, 122, 127, 137)
    coco = load_manifest("coco-panoptic")
    order = load_table("splits/coco-panoptic-eclipse.yaml:c", coco.info).order
    assert order[:3] == tuple(coco.class_ids()[i - 1] for i in (1, 3, 10))


@pytest.mark.parametrize(
    ("benchmark", "names"),
    [  # register_myade20k_panoptic.py of ECLIPSE, the 0 taken for the background
        ("ade20k-150", {1: "wall", 8: "bed", 43: "column", 106: "conveyer belt", 150: "flag"}),
        ("ade20k-panoptic", {1: "wall", 8: "bed", 43: "column", 106: "conveyer belt", 150: "flag"}),
        # COCO_CATEGORIES of detectron2, from panopticapi: 80 things, 36 stuff, 17 merged ones
        ("coco-panoptic", {1: "person", 12: "stop sign", 80: "toothbrush", 81: "banner", 117: "tree", 133: "rug"}),
    ],
)
def test_a_position_of_eclipse_is_a_class_of_the_benchmark(benchmark: str, names: dict[int, str]) -> None:
    """Positions count from 1 in the order in which their code registers the classes: that of our manifest."""
    info = [c for c in load_manifest(benchmark).info if not c.background]
    assert {i: info[i - 1].name.removesuffix("-merged") for i in names} == names


def test_rows_count_images_as_their_authors_do(
    tmp_path: Path, tiny_index_png: SimpleNamespace, tiny_coco: SimpleNamespace
) -> None:
    """VOC of MiB, PLOP and ECLIPSE: the lines of train_aug.txt. ADE20K and panoptic: names of images, sorted."""
    top = tiny_index_png.root / "tiny-index"
    lines = [f"/images/train/frame_{i}.png /labels/train/frame_{i}.png\n" for i in (4, 0, 5, 3)]
    (top / "train_aug.txt").write_text("".join(lines))
    content = tiny_index_png.content | {"name": "tiny-voc"}
    splits = content["splits"]
    content["splits"] = splits | {"train": splits["train"] | {"names": "train_aug.txt"}}
    voc = tmp_path / "voc.yaml"
    voc.write_text(yaml.safe_dump(content))
    annotations = tiny_coco.root / "tiny-coco" / "annotations" / "train.json"
    said = json.loads(annotations.read_text())
    said["annotations"].reverse()
    annotations.write_text(json.dumps(said))
    lists, table = tmp_path / "mib", tmp_path / "mya.npy"
    lists.mkdir()
    np.save(lists / "train-0.npy", np.array([3, 0]))
    np.save(lists / "train-1.npy", np.array([1, 2]))

    def ids(manifest: Path, root: Path, place: Path) -> list[list[str]]:
        data = IncrementalDataModule(manifest, tasks=2, data_root=root, image_lists=place, cache_samples=False)
        return [data.dataset("train", t).sample_ids for t in range(2)]

    listed = [["train/frame_4", "train/frame_3"], ["train/frame_0", "train/frame_5"]]
    assert ids(voc, tiny_index_png.root, lists) == listed
    assert ids(tiny_index_png.path, tiny_index_png.root, lists)[0] == ["train/frame_0", "train/frame_3"]
    np.save(table, np.array([[1, 0], [0, 1], [1, 1], [0, 1], [0, 0]], dtype=float))
    assert ids(tiny_coco.path, tiny_coco.root, table)[0] == ["train/000000", "train/000002"]


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
        ("{", "not YAML"),
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
