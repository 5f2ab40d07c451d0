"""The published settings are options that exist, of benchmarks and encoders that exist."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from kc.actions import read
from kc.data import manifest as manifests
from kc.encoders.load import check_encoder_name
from kc.registry import spec_of
from kc.studies.keys import shared_classes

FILES = sorted((Path(__file__).resolve().parents[2] / "experiments/configs/visual_memory").glob("*.yaml"))
load_manifest = cache(manifests.load_manifest)  # a thousand classes take a second to read


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_config_is_read(path: Path) -> None:
    name = "unknowns" if path.stem.startswith("ninco") else "votes"
    assert f"kc study {name} --config THIS" in path.read_text()
    config = read(spec_of("study", name).options, ["--config", str(path)], "kc study")
    assert config is not None
    manifest = load_manifest(config.benchmark)
    queries = load_manifest(config.queries or config.benchmark)
    assert path.stem.startswith(queries.name)
    assert manifest.task_kind == queries.task_kind == "classification"
    assert {"train", "test"} <= {*manifest.splits, *queries.splits}
    check_encoder_name(config.encoder)
    assert config.k == "10,50,100"
    if queries.name == "imagenet-1k":
        assert config.published is not None
        assert config.published["rank k=10"] == (83.5 if "dinov2" in config.encoder else 79.3)


def test_imagenets_classes_are_torchvisions() -> None:
    classes = load_manifest("imagenet-1k").classes
    assert len(classes) == 1000
    assert (classes[0].name, classes[0].folder) == ("tench", "n01440764")
    assert (classes[999].name, classes[999].folder) == ("toilet tissue", "n15075141")
    assert len({c.folder for c in classes}) == 1000
    assert [c.folder for c in load_manifest("eurosat").classes][::9] == ["AnnualCrop", "SeaLake"]


def test_further_lists_are_those_of_their_owners() -> None:
    ends = {
        "imagenet-a": (200, "stingray", "n01498041", "acorn", "n12267677"),
        "imagenet-sketch": (1000, "tench", "n01440764", "toilet tissue", "n15075141"),
        "imagenet-v2": (1000, "tench", "0", "toilet tissue", "999"),
        "ninco": (64, "caracal", "Caracal caracal caracal", "Windsor chair", "windsor_chair"),
        "food101": (101, "apple pie", "apple_pie", "waffles", "waffles"),
    }
    for name, (n, first, first_folder, last, last_folder) in ends.items():
        manifest = load_manifest(name)
        folders = manifest.names_in_files()
        assert len(set(folders)) == n
        assert (manifest.classes[0].name, folders[0]) == (first, first_folder)
        assert (manifest.classes[-1].name, folders[-1]) == (last, last_folder)
    names = [c.name for c in load_manifest("imagenet-1k").classes]
    assert [c.name for c in load_manifest("imagenet-v2").classes] == names
    assert [c.folder for c in load_manifest("imagenet-v2").classes] == [str(i) for i in range(1000)]
    # Places of ImageNet-A among the thousand: entries of its owners' table.
    wnids = [c.folder for c in load_manifest("imagenet-1k").classes]
    of_a = {folder: i for i, folder in enumerate(load_manifest("imagenet-a").names_in_files())}
    assert [of_a[str(wnids[place])] for place in (6, 11, 89, 314, 492, 626, 988)] == [0, 1, 19, 56, 99, 123, 199]


def test_imagenets_classes_meet() -> None:
    memory = load_manifest("imagenet-1k")
    for name, n in (("imagenet-a", 200), ("imagenet-r", 200), ("imagenet-sketch", 1000), ("imagenet-v2", 1000)):
        queries = load_manifest(name)
        same = shared_classes(queries, memory)
        names = {c.id: c.name for c in memory.classes}
        assert len(same) == len(set(same.values())) == n
        assert [names[same[c.id]] for c in queries.classes] == [c.name for c in queries.classes]
    assert shared_classes(load_manifest("ninco"), memory) == {}
