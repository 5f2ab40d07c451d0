"""The manifests that come with the package say what the owners' lists say: counts, ends and a few known entries."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kc.data.manifest import load_manifest, manifest_names
from kc.data.split import build_tasks

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments" / "configs"

# Benchmark -> number of classes, first and last class (id, name), things, ignored value.
KNOWN: dict[str, tuple[int, tuple[int, str], tuple[int, str], int, int | None]] = {
    "voc2012": (21, (0, "background"), (20, "tvmonitor"), 20, 255),
    "voc2012-official": (21, (0, "background"), (20, "tvmonitor"), 20, 255),
    "ade20k-150": (150, (1, "wall"), (150, "flag"), 100, 0),
    "ade20k-panoptic": (150, (0, "wall"), (149, "flag"), 100, None),
    "cityscapes": (19, (0, "road"), (18, "bicycle"), 8, 255),
    "pascal-context-59": (59, (1, "aeroplane"), (59, "wood"), 0, 0),
    "coco-panoptic": (133, (1, "person"), (200, "rug-merged"), 80, None),
    "coco-stuff": (171, (0, "person"), (181, "wood"), 80, 255),
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


def test_every_manifest_loads_under_its_own_name() -> None:
    assert set(KNOWN) < set(manifest_names())
    for name in manifest_names():
        assert load_manifest(name).name == name


def test_every_published_setting_names_a_benchmark_and_a_split_that_exist() -> None:
    for path in EXPERIMENTS.glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        build_tasks(load_manifest(config["benchmark"]), config.get("tasks"), config.get("split"))


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
