"""Ids are the owner's: 1,203 classes counted 0..1202, 254 and 255 among them, and a background of id 0, are learned,
predicted, stored and scored. Fused and zero-shot methods and mask heads: `tests/methods/test_class_ids.py`."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kc.cli import main
from kc.data.manifest import load_manifest
from kc.data.readers.open import open_reader
from kc.data.shards import index
from kc.data.shards.reader import ShardReader
from kc.errors import DataError
from kc.memory.disk import Memory
from kc.report.examples import load_examples
from kc.types import VOID
from tests.conftest import save, tiny

N = 1203
SHOWN = (0, 254, 255, 256, 1202)
"""Classes that the images show."""
COLORS = {0: (250, 20, 20), 254: (20, 250, 20), 255: (20, 20, 250), 256: (250, 250, 20), 1202: (20, 250, 250)}
CLASSES = [{"id": i, "name": f"thing {i}"} for i in range(N)]


def textured(classes: np.ndarray, seed: int) -> np.ndarray:
    """(H, W, 3) uint8: every class in its colour, with noise."""
    image = np.zeros((*classes.shape, 3))
    for class_id, color in COLORS.items():
        image[classes == class_id] = color
    return np.clip(image + np.random.default_rng(seed).integers(-15, 16, image.shape), 0, 255)


def maps(split: str) -> list[np.ndarray]:
    """Label maps (64, 64) of two classes side by side, with a void corner. 1202 alone is of the second task."""
    pairs = list(itertools.permutations(SHOWN, 2)) if split == "train" else [(0, 254), (255, 256), (1202, 255)]
    found = []
    for left, right in pairs:
        labels = np.full((64, 64), left)
        labels[:, 32:] = right
        labels[:6, :6] = VOID
        found.append(labels)
    return found


@pytest.fixture
def wide_labels(tmp_path: Path) -> SimpleNamespace:
    """Classification from a table."""
    top = tmp_path / "data" / "wide-labels"
    for split, count in (("train", 3), ("test", 1)):
        lines = ["image,label"]
        for c in SHOWN:
            for i in range(count):
                save(top / split / f"{c}-{i}.png", textured(np.full((32, 32), c), i + 9 * (split == "test")))
                lines.append(f"{split}/{c}-{i}.png,thing {c}")
        (top / f"{split}.csv").write_text("\n".join(lines) + "\n")
    splits = {s: {"file": f"{s}.csv"} for s in ("train", "test")}
    return tiny(tmp_path, "wide-labels", "classification", "csv", splits, CLASSES, input_size=[32, 32])


@pytest.fixture
def wide_maps(tmp_path: Path) -> SimpleNamespace:
    """Semantic, 16-bit PNGs in which 65535 is unlabelled."""
    top = tmp_path / "data" / "wide-maps"
    for split in ("train", "test"):
        for i, labels in enumerate(maps(split)):
            save(top / "images" / split / f"{i}.png", textured(labels, i))
            (top / "labels" / split).mkdir(parents=True, exist_ok=True)
            stored = np.where(labels == VOID, 65535, labels).astype(np.uint16)
            Image.fromarray(stored).save(top / "labels" / split / f"{i}.png")
    splits = {s: {"images": f"images/{s}", "labels": f"labels/{s}"} for s in ("train", "test")}
    return tiny(tmp_path, "wide-maps", "semantic", "index_png", splits, CLASSES, input_size=[64, 64], ignore=65535)


@pytest.fixture
def wide_things(tmp_path: Path) -> SimpleNamespace:
    """COCO panoptic; 255 and 1202 are things, 256 too, all others stuff."""
    top = tmp_path / "data" / "wide-things"
    things = (255, 256, 1202)
    for split in ("train", "test"):
        images, annotations = [], []
        for i, labels in enumerate(maps(split)):
            save(top / "images" / split / f"{i}.png", textured(labels, i))
            ids = labels + 1
            save(top / "masks" / split / f"{i}.png", np.stack([ids % 256, ids // 256, 0 * ids], -1))
            images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
            segments = [{"id": int(c) + 1, "category_id": int(c)} for c in np.unique(labels) if c != VOID]
            annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
        categories = [{"id": c["id"], "name": c["name"], "isthing": int(c["id"] in things)} for c in CLASSES]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (top / f"{split}.json").write_text(json.dumps(content))
    classes = [{**c, "thing": c["id"] in things} for c in CLASSES]
    splits = {
        s: {"images": f"images/{s}", "annotations": f"{s}.json", "masks": f"masks/{s}"} for s in ("train", "test")
    }
    return tiny(tmp_path, "wide-things", "panoptic", "coco_panoptic", splits, classes, input_size=[64, 64])


@pytest.fixture
def background(tmp_path: Path) -> SimpleNamespace:
    """As VOC: 8-bit PNGs, 0 is the background, 255 unlabelled; 254 is a class like any other."""
    top = tmp_path / "data" / "voc-like"
    for split in ("train", "test"):
        for i, c in enumerate((254, 1, 2, 254, 1, 2)):
            labels = np.zeros((64, 64), np.int64)
            labels[16:, 16:] = c
            shown = np.select([labels == 254, labels == 1, labels == 2], [254, 255, 1202], 0)
            labels[:4] = 255
            save(top / "images" / split / f"{i}.png", textured(shown, i))
            save(top / "labels" / split / f"{i}.png", labels)
    classes = [{"id": 0, "name": "background", "background": True}, {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"},
               {"id": 254, "name": "last"}]  # fmt: skip
    splits = {s: {"images": f"images/{s}", "labels": f"labels/{s}"} for s in ("train", "test")}
    return tiny(tmp_path, "voc-like", "semantic", "index_png", splits, classes, input_size=[64, 64], ignore=255)


def run(benchmark: SimpleNamespace, out: Path, *options: str) -> tuple[Path, dict[str, dict[str, Any]]]:
    """`kc run` of two tasks; the run's folder, and the results of each method."""
    given = ["--benchmark", str(benchmark.path), "--data-root", str(benchmark.root), "--out", str(out)]
    assert (
        main(
            [
                "run",
                *given,
                "--tasks",
                "2",
                "--setting",
                "sequential",
                "--batch-size",
                "4",
                "--save-predictions",
                *options,
            ]
        )
        == 0
    )
    (path,) = out.glob("**/results.json")
    results = json.loads(path.read_text(encoding="utf-8"))
    return path.parent, {m["name"]: m for m in results["methods"]}


def maps_of(folder: Path, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Answer and truth of each test image, as the files of a method's predictions hold them."""
    place = folder / "methods" / f"{name}-s0" / "predictions"
    for path in sorted((place / "semantic").iterdir()):
        yield np.array(Image.open(path)), np.array(Image.open(place / "truth" / "semantic" / path.name))


def stored(folder: Path, name: str) -> set[int]:
    """Classes of the rows of a method's memory."""
    return set(Memory.open(folder / "methods" / f"{name}-s0" / "memory").labels().class_id.tolist())


def test_images(wide_labels: SimpleNamespace, tmp_path: Path) -> None:
    methods = ("joint", "replay", "knn", "ncm", "hybrid-replay")
    given = ("--methods", ",".join(methods), "--epochs", "40", "--lr", "1", "--exemplars", "1203")
    folder, found = run(wide_labels, tmp_path / "out", *given)
    for name in methods:
        with (folder / "methods" / f"{name}-s0" / "predictions" / "answers.csv").open(encoding="utf-8") as file:
            rows = {int(r["label"]): r for r in csv.DictReader(file)}
        right = {c for c, r in rows.items() if r["answer"] == str(c)}
        assert set(rows) == set(SHOWN)
        assert len(right) >= (4 if "replay" in name else 5), (name, right)  # three exemplars of old classes are few
        assert all(r["answer_name"] == f"thing {r['answer']}" for r in rows.values())
        assert found[name]["seen"][-1] == len(right) / 5
        assert [found[name]["per_class"][f"thing {c}"][-1] for c in SHOWN] == [float(c in right) for c in SHOWN]
    assert stored(folder, "knn") == set(SHOWN)


def test_pixels_and_regions(wide_maps: SimpleNamespace, tmp_path: Path) -> None:
    options = ("--proposals", "oracle", "--epochs", "10", "--exemplars", "1203")
    folder, found = run(wide_maps, tmp_path / "a", "--methods", "joint,mib,knn,hybrid-replay", *options)
    more, regions = run(wide_maps, tmp_path / "b", "--methods", "joint", "--decoder", "regions", *options)
    wanted = [np.where(labels == VOID, 65535, labels) for labels in maps("test")]
    for place, name in (
        (folder, "joint"),
        (folder, "mib"),
        (folder, "knn"),
        (folder, "hybrid-replay"),
        (more, "joint"),
    ):
        for (said, asked), labels in zip(maps_of(place, name), wanted, strict=True):
            assert asked.dtype == np.uint16
            assert (asked == labels).all()
            if name != "mib":  # it forgets, as it may
                assert (said == asked)[asked != 65535].mean() > 0.9, (name, np.unique(said))
    assert found["joint"]["per_class"]["thing 1202"][-1] > 0.9
    assert regions["joint"]["seen"][-1] > 0.9
    assert stored(folder, "knn") == set(SHOWN)
    shown = {int(c) for example in load_examples(folder / "examples") for c in np.unique(example.truth)}
    assert {VOID, 254, 255, 256} <= shown <= {VOID, *SHOWN}
    assert (folder / "report.html").is_file()


def test_panoptic(wide_things: SimpleNamespace, tmp_path: Path) -> None:
    folder, found = run(
        wide_things, tmp_path / "a", "--methods", "joint,knn", "--proposals", "oracle", "--epochs", "10"
    )
    for name in ("joint", "knn"):
        assert found[name]["final"]["pq"] > 0.9
        assert found[name]["per_class"]["thing 255"][-1] > 0.9
        content = json.loads((folder / "methods" / f"{name}-s0" / "predictions" / "panoptic.json").read_text())
        categories = {s["category_id"] for a in content["annotations"] for s in a["segments_info"]}
        assert categories >= set(SHOWN)
    assert stored(folder, "knn") == set(SHOWN)


def test_a_background_of_id_0(background: SimpleNamespace, tmp_path: Path) -> None:
    methods = ("joint", "replay", "mib", "knn", "hybrid-replay")
    options = ("--proposals", "oracle", "--epochs", "20", "--exemplars", "12")
    folder, found = run(background, tmp_path / "a", "--methods", ",".join(methods), *options)
    for name in methods:
        assert found[name]["per_class"]["background"][-1] > 0.9, name
        for said, asked in maps_of(folder, name):
            assert asked.dtype == said.dtype == np.uint8
            assert set(np.unique(asked).tolist()) < {0, 1, 2, 254, 255}
            assert (said[asked == 0] == 0).mean() > 0.9
    assert [found["joint"]["per_class"][c][-1] > 0.9 for c in ("cat", "dog", "last")] == [True] * 3
    assert stored(folder, "knn") == {0, 1, 2, 254}


def test_shards_carry_them(
    wide_maps: SimpleNamespace, background: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tiny_maps in (wide_maps, background):
        out = tmp_path / "shards" / tiny_maps.content["name"]
        given = ["data", "shards", str(tiny_maps.path), "--data-root", str(tiny_maps.root), "--out", str(out)]
        monkeypatch.setattr(index, "SCHEMA", 1)  # as an older version wrote them
        assert main(given) == 0
        monkeypatch.undo()
        (path,) = out.glob("*.yaml")
        with pytest.raises(DataError, match="kc data shards"):
            open_reader(load_manifest(path), "test", out.parent)
        assert main(given) == 0
        reader, files = (
            open_reader(load_manifest(path), "test", out.parent),
            open_reader(tiny_maps.manifest, "test", tiny_maps.root),
        )
        assert isinstance(reader, ShardReader)
        for i in range(len(files)):
            assert (reader.read(i).semantic == files.read(i).semantic).all()
        assert (reader.class_table == files.class_table).all()
