"""The manifests that come with the package say what the owners' lists say: counts, ends and a few known entries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kc.data.check import check
from kc.data.manifest import Manifest, load_manifest, manifest_names
from kc.data.readers.open import open_reader
from kc.parsing import parse
from kc.resolve import resolve as check_config
from kc.types import VOID

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments" / "configs"

# Benchmark -> number of classes, first and last class (id, name), things, ignored value.
KNOWN: dict[str, tuple[int, tuple[int, str], tuple[int, str], int, int | tuple[int, ...] | None]] = {
    "voc2012": (21, (0, "background"), (20, "tvmonitor"), 20, 255),
    "voc2012-official": (21, (0, "background"), (20, "tvmonitor"), 20, 255),
    "ade20k-150": (150, (1, "wall"), (150, "flag"), 100, 0),
    "ade20k-panoptic": (150, (0, "wall"), (149, "flag"), 100, None),
    "voc20": (20, (1, "aeroplane"), (20, "tvmonitor"), 20, (0, 255)),
    "pascal-context-60": (60, (0, "background"), (59, "wood"), 0, None),
    "coco-object": (81, (200, "background"), (89, "toothbrush"), 80, None),
    "cityscapes": (19, (0, "road"), (18, "bicycle"), 8, 255),
    "ade20k-847": (847, (0, "wall"), (846, "adding machine"), 0, None),
    "pascal-context-459": (459, (0, "accordion"), (458, "wool"), 0, None),
    "pascal-context-59": (59, (1, "aeroplane"), (59, "wood"), 0, 0),
    "coco-panoptic": (133, (1, "person"), (200, "rug-merged"), 80, None),
    "coco-stuff": (171, (0, "person"), (181, "wood"), 80, 255),
    "mnist": (10, (0, "zero"), (9, "nine"), 0, None),
    "fashion-mnist": (10, (0, "t-shirt"), (9, "ankle boot"), 0, None),
    "cifar10": (10, (0, "airplane"), (9, "truck"), 0, None),
    "cifar100": (100, (0, "apple"), (99, "worm"), 0, None),
    "cub200": (200, (0, "Black footed Albatross"), (199, "Common Yellowthroat"), 0, None),
    "imagenet-r": (200, (0, "goldfish"), (199, "acorn"), 0, None),
    "caltech101": (101, (0, "face"), (100, "yin yang"), 0, None),
}


@pytest.mark.parametrize("name", KNOWN)
def test_classes_are_those_of_the_owners(name: str) -> None:
    manifest = load_manifest(name)
    n, first, last, things, ignore = KNOWN[name]
    assert manifest.name == name
    assert len(manifest.classes) == n
    assert (manifest.classes[0].id, manifest.classes[0].name) == first
    assert (manifest.classes[-1].id, manifest.classes[-1].name) == last
    assert len(manifest.thing_ids) == things
    assert manifest.ignore == ignore
    assert len(manifest.obtain) > 40
    assert manifest.homepage is not None


def test_large_vocabularies_keep_the_owners_numbers() -> None:
    ade, context = load_manifest("ade20k-847"), load_manifest("pascal-context-459")
    numbers = {c.name: c.values for c in ade.classes}
    assert (numbers["wall"], numbers["building"], numbers["silver screen"]) == ((2978,), (312,), (2254,))
    assert [c.values for c in context.classes] == [(i,) for i in range(1, 460)]
    # Of a frequent class the numbers in datasets/prepare_pascal_ctx_sem_seg.py of bytedance/fc-clip, as above.
    few = {c.name: c.values for c in context.classes if c.name in load_manifest("pascal-context-59").class_names()}
    assert len(few) == 59
    assert (few["aeroplane"], few["light"], few["wood"], few["person"]) == ((2,), (232,), (458,), (284,))


def test_every_manifest_loads_under_its_own_name() -> None:
    assert set(KNOWN) < set(manifest_names())
    for name in manifest_names():
        assert load_manifest(name).name == name


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_published_setting_is_accepted_with_the_benchmark_it_names(path: Path) -> None:
    check_config(parse(["--config", str(path)]))


def test_lists_are_letter_for_letter_the_published_ones() -> None:
    cifar = "\n".join(c.name.replace(" ", "_") for c in load_manifest("cifar100").classes)
    assert len(cifar) == 724  # the published file without its last line end
    assert cifar.split("\n") == sorted(cifar.split("\n"))
    cub = load_manifest("cub200").names_in_files()
    assert [name[:4] for name in cub] == [f"{i:03d}." for i in range(1, 201)]
    assert sum(len(f"{i} {name}\n") for i, name in enumerate(cub, start=1)) == 4824


def test_voc_colours_are_the_palette_of_the_devkit() -> None:
    # VOClabelcolormap: a published table, of which these are entries 0, 1, 2, 15 and 20.
    colors = [c.color for c in load_manifest("voc2012").classes]
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {i: colors[i] for i in known} == known


def test_ade20k_names_synonyms_and_things() -> None:
    by_id = {c.id: c for c in load_manifest("ade20k-150").classes}
    assert (by_id[2].name, by_id[2].synonyms, by_id[2].thing) == ("building", ("edifice",), False)
    assert (by_id[13].name, by_id[13].synonyms[-1], by_id[13].thing) == ("person", "soul", True)
    assert (by_id[5].name, by_id[5].thing) == ("tree", False)
    panoptic = {c.id: c for c in load_manifest("ade20k-panoptic").classes}
    assert (panoptic[6].name, panoptic[6].folder) == ("road", "road, route")
    assert {c.id + 1 for c in panoptic.values() if c.thing} == {c.id for c in by_id.values() if c.thing}


def test_coco_lists_agree_with_each_other_and_with_the_real_annotations() -> None:
    panoptic, subset = load_manifest("coco-panoptic"), load_manifest("coco200-panoptic")
    assert panoptic.classes == subset.classes  # whose reader compares them with the annotation file
    things = {c.id: c.name for c in panoptic.classes if c.thing}
    assert {c.id + 1: c.name for c in load_manifest("coco-stuff").classes if c.thing} == things


def test_caltech_folders_begin_with_those_of_the_real_subset() -> None:
    real = load_manifest("caltech50").names_in_files()
    assert load_manifest("caltech101").names_in_files()[:50] == real


# A few files in the folders that the owners' archives make: the manifests that come with the package read them.


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (8, 8, 3))


def voc(root: Path, manifest: Manifest) -> None:
    top, names = root / "VOCdevkit" / "VOC2012", ["2007_000032", "2007_000033", "2007_000039"]
    for i, name in enumerate(names):
        save(top / "JPEGImages" / f"{name}.jpg", picture(i))
        for folder in ("SegmentationClass", "SegmentationClassAug"):
            save(top / folder / f"{name}.png", np.array([[0, 1, 20, 255]] * 8).repeat(2, axis=1))
    lists = top / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text(f"{names[0]}\n")
    (lists / "train_aug.txt").write_text(
        "".join(f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png\n" for n in names[:2])
    )
    (lists / "val.txt").write_text(f"{names[2]}\n")


def ade(root: Path, manifest: Manifest) -> None:
    top = root / "ADEChallengeData2016"
    for i, (folder, name) in enumerate((("training", "train"), ("validation", "val"))):
        save(top / "images" / folder / f"ADE_{name}_00000001.jpg", picture(i))
        labels = np.array([[0, 1, 77, 150]] * 8).repeat(2, axis=1)
        save(top / "annotations" / folder / f"ADE_{name}_00000001.png", labels)
        # What prepare_ade20k_pan_seg.py makes of it: ids from 0, names with their synonyms and one trailing space.
        stem = f"ADE_{name}_00000001"
        save(top / f"ade20k_panoptic_{name}" / f"{stem}.png", np.stack([labels, labels * 0, labels * 0], -1))
        files = load_manifest("ade20k-panoptic")
        categories = [
            {"id": c.id, "name": n + " " * (n == "window"), "isthing": int(c.thing)}
            for c, n in zip(files.classes, files.names_in_files(), strict=True)
        ]
        segments = [{"id": v, "category_id": v - 1, "iscrowd": 0} for v in (1, 77, 150)]
        annotations = [{"image_id": stem, "file_name": f"{stem}.png", "segments_info": segments}]
        content = {"images": [{"id": stem, "file_name": f"{stem}.jpg"}], "annotations": annotations}
        (top / f"ade20k_panoptic_{name}.json").write_text(json.dumps(content | {"categories": categories}))


def cityscapes(root: Path, manifest: Manifest) -> None:
    for i, (part, city) in enumerate((("train", "aachen"), ("val", "ulm"))):
        stem = f"{city}_000000_000019"
        save(root / f"cityscapes/leftImg8bit/{part}/{city}/{stem}_leftImg8bit.png", picture(i))
        labels = np.array([[0, 7, 18, 255]] * 8).repeat(2, axis=1)
        save(root / f"cityscapes/gtFine/{part}/{city}/{stem}_gtFine_labelTrainIds.png", labels)
        save(root / f"cityscapes/gtFine/{part}/{city}/{stem}_gtFine_labelIds.png", labels)


def cifar(root: Path, manifest: Manifest) -> None:
    n_labels = 2 if len(manifest.classes) == 100 else 1
    for split in manifest.splits.values():
        for i, file in enumerate(split.paths()):
            path = root / manifest.source.folder / file  # type: ignore[union-attr]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([9] * n_labels) + np.random.default_rng(i).bytes(3072))


def cub(root: Path, manifest: Manifest) -> None:
    top, names = root / "CUB_200_2011", manifest.names_in_files()
    images = [f"{names[c]}/bird_{i}.jpg" for c in (0, 199) for i in range(2)]
    for i, image in enumerate(images):
        save(top / "images" / image, picture(i))
    tables = {
        "classes.txt": list(names),
        "images.txt": images,
        "image_class_labels.txt": ["1", "1", "200", "200"],
        "train_test_split.txt": ["1", "0", "1", "0"],
    }
    for file, rows in tables.items():
        (top / file).write_text("".join(f"{i} {row}\n" for i, row in enumerate(rows, start=1)))


def folders(root: Path, manifest: Manifest) -> None:
    top = root / manifest.source.folder / manifest.splits["train"].paths()[0]  # type: ignore[union-attr]
    names = [*manifest.names_in_files(), *(["BACKGROUND_Google"] if manifest.name == "caltech101" else [])]
    for c, name in enumerate(names):
        for i in range(2):
            save(top / name / f"image_000{i}.jpg", picture(10 * c + i))


@pytest.mark.parametrize(
    ("name", "build", "train", "test"),
    [
        ("voc2012", voc, 2, 1), ("voc2012-official", voc, 1, 1), ("ade20k-150", ade, 1, 1),
        ("ade20k-panoptic", ade, 1, 1), ("cityscapes", cityscapes, 1, 1), ("cifar10", cifar, 5, 1),
        ("cifar100", cifar, 1, 1), ("cub200", cub, 2, 2), ("imagenet-r", folders, 200, 200),
        ("caltech101", folders, 101, 101),
    ],
)  # fmt: skip
def test_shipped_manifests_read_the_layout_of_the_archives(
    name: str, build: Callable[[Path, Manifest], None], train: int, test: int, tmp_path: Path
) -> None:
    manifest = load_manifest(name)
    build(tmp_path, manifest)
    report = check(manifest, None, tmp_path, workers=2)
    assert report.problems == []
    assert report.n_read == {"train": train, "test": test}
    sample = open_reader(manifest, "test", tmp_path).read(0)
    if name == "ade20k-panoptic":
        assert sample.panoptic is not None
        assert sample.panoptic[0, ::2, 0].tolist() == [VOID, 0, 76, 149]
    elif name == "ade20k-150":
        assert sample.semantic is not None
        assert sample.semantic[0, ::2].tolist() == [VOID, 1, 77, 150]
