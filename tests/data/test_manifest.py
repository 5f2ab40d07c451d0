"""Manifests: what is accepted, and one clear error for everything else."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kc.data.manifest import load_manifest, manifest_names
from kc.errors import ManifestError, UnknownNameError
from kc.types import ClassInfo

VALID: dict[str, Any] = {
    "name": "streets",
    "task_kind": "semantic",
    "licence": "CC0",
    "homepage": "https://example.org/streets",
    "source": {"reader": "index_png", "folder": "streets"},
    "splits": {"train": {"images": "images/train", "labels": "labels/train"}},
    "classes": [
        {"id": 0, "name": "sky", "color": [1, 2, 3], "synonyms": ["clouds"]},
        {"id": 4, "name": "road", "background": True},
        {"id": 2, "name": "car"},
    ],
    "ignore": 9,
    "input_size": [24, 32],
    "task_splits": {"2-1": [2, 1]},
}


def load(tmp_path: Path, change: Callable[[dict[str, Any]], Any] = lambda content: None) -> Any:
    content = copy.deepcopy(VALID)
    change(content)
    path = tmp_path / "streets.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_manifest(path)


def test_a_valid_manifest_keeps_the_order_of_its_classes(tmp_path: Path) -> None:
    manifest = load(tmp_path)
    assert manifest.class_ids() == (0, 4, 2)
    assert manifest.class_names() == ("sky", "road", "car")
    assert manifest.info[0] == ClassInfo(0, "sky", ("clouds",), False, (1, 2, 3), False)
    assert manifest.background_id == 4
    assert manifest.input_size == (24, 32)
    assert manifest.task_splits == {"2-1": (2, 1)}
    assert manifest.splits["train"].labels == "labels/train"


def test_fingerprint_follows_content_not_the_order_of_keys(tmp_path: Path) -> None:
    first = load(tmp_path).fingerprint
    text = yaml.safe_dump(dict(reversed(VALID.items())), sort_keys=False)
    (tmp_path / "other.yaml").write_text(text)
    assert load_manifest(tmp_path / "other.yaml").fingerprint == first
    assert len(first) == 64
    assert load(tmp_path, lambda c: c["classes"].reverse()).fingerprint != first


def set_class(number: int, **values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda c: c["classes"][number].update(values)


def set_key(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda c: c.update(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_key(task_knd="x"), ["task_knd", "Did you mean 'task_kind'?", "Allowed: name, task_kind"]),
        (set_class(1, nam="x"), ["classes.1.nam", "unknown key", "Allowed: id, name"]),
        (lambda c: c["source"].update(path="x"), ["source.path", "unknown key", "Allowed: reader, folder"]),
        (lambda c: c["splits"]["train"].update(masks="x"), ["splits.train.masks", "Allowed: images, labels"]),
        (lambda c: c["splits"]["train"].update(reader="folder"), ["splits.train.reader", "source.reader"]),
        (lambda c: c["splits"].update(dev={}), ["splits.dev", "'train', 'val' or 'test'"]),
        (lambda c: c["source"].update(reader="pickle"), ["source", "'pickle'", "'index_png'"]),
        (lambda c: c.pop("input_size"), ["input_size", "missing"]),
        (set_key(task_kind="classification"), ["task_kind", "'index_png'", "semantic"]),
        (set_key(task_kind="detection"), ["task_kind", "'classification', 'semantic' or 'panoptic'", "'detection'"]),
        (set_class(1, id=0), ["classes", "duplicate class id 0"]),
        (set_class(1, name="sky"), ["classes", "duplicate class name 'sky'"]),
        (set_class(1, id=-1), ["classes.1.id", "greater than or equal to 0", "-1"]),
        (set_class(0, background=True), ["2 background classes"]),
        (set_class(1, thing=True), ["'road'", "background and a thing"]),
        (set_class(1, color=[0, 0, 256]), ["classes.1.color.2", "256"]),
        (set_class(1, folder="road"), ["folder"]),
        (set_key(task_splits={"a": [1, 1]}), ["task_splits.a", "add up to 2", "has 3"]),
        (set_key(task_splits={"a": [3, 0]}), ["task_splits.a.1", "greater than or equal to 1"]),
        (set_key(ignore=2), ["ignore", "the mask value 2 has two meanings"]),
        (set_key(input_size=[0, 3]), ["input_size.0"]),
        (set_key(homepage="pipe:cat /etc/passwd"), ["homepage", "would run a command"]),
        (set_key(homepage="ftp://x"), ["homepage", "https://"]),
        (lambda c: c["source"].update(folder="pipe:ls"), ["source.folder", "would run a command"]),
        (lambda c: c["source"].update(folder="a; rm b"), ["source.folder", "would run a command"]),
        (lambda c: c["source"].update(folder="$(id)"), ["source.folder", "would run a command"]),
        (lambda c: c["source"].update(folder="../x"), ["source.folder", "leaves the data folder"]),
        (lambda c: c["splits"]["train"].update(images="a/../../b"), ["splits.train.images", "leaves the data folder"]),
        (lambda c: c["splits"]["train"].update(images="/etc"), ["splits.train.images", "not a path relative"]),
        (lambda c: c["splits"]["train"].update(images="C:\\x"), ["splits.train.images", "not a path relative"]),
        (lambda c: c["splits"]["train"].update(images="~/x"), ["splits.train.images", "not a path relative"]),
        (lambda c: c["splits"]["train"].update(images="s3://x/y"), ["splits.train.images", "is an address"]),
        (set_key(checksum={"a.json": "md5:1"}), ["checksum.a.json", "sha256"]),
    ],
)
def test_every_mistake_names_file_key_and_what_is_allowed(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: list[str]
) -> None:
    with pytest.raises(ManifestError) as error:
        load(tmp_path, change)
    for words in [str(tmp_path / "streets.yaml"), *said]:
        assert words in str(error.value)


def test_several_mistakes_are_said_together(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["task_knd"] = content.pop("task_kind")
        content["input_size"] = [24]

    with pytest.raises(ManifestError, match=r"(?s)task_kind: this key is missing.*input_size.*task_knd: unknown key"):
        load(tmp_path, change)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "'name' is said twice"),
        ("a: [1", "not YAML"),
        ("- a\n- b\n", "expected a mapping"),
        ("!!python/object/apply:os.system ['true']\n", "not YAML"),
    ],
)
def test_files_that_are_no_manifest(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ManifestError, match=r"bad\.yaml") as error:
        load_manifest(path)
    assert said in str(error.value)


def test_missing_file_and_mistyped_name() -> None:
    with pytest.raises(ManifestError, match=r"nowhere/x\.yaml: cannot be read"):
        load_manifest("nowhere/x.yaml")
    with pytest.raises(UnknownNameError, match="Did you mean 'digit-scenes'"):
        load_manifest("digit-scnes")


ASKED_ONLY = {"imagenet-a", "imagenet-sketch", "imagenet-v2", "ninco"}
"""Their owners publish test images alone."""


@pytest.mark.parametrize("name", manifest_names())
def test_shipped_manifests_are_valid_and_complete(name: str) -> None:
    manifest = load_manifest(name)
    assert manifest.name == name
    assert manifest.obtain
    assert len({c.color for c in manifest.classes}) == len(manifest.classes)
    assert {"train", "test"} <= set(manifest.splits) or (name in ASKED_ONLY and set(manifest.splits) == {"test"})


def test_shipped_benchmarks() -> None:
    assert set(manifest_names()) >= {"digit-scenes", "digits", "camvid", "caltech50", "coco200-panoptic"}
    camvid, coco = load_manifest("camvid"), load_manifest("coco200-panoptic")
    assert camvid.task_splits == {"6-1": (6, 1, 1, 1, 1, 1), "5-2": (5, 2, 2, 2)}
    assert camvid.ignore == 11
    assert len(coco.classes) == 133
    assert len(coco.thing_ids) == 80
    assert coco.task_splits["83-10"] == (83, 10, 10, 10, 10, 10)
    assert load_manifest("digit-scenes").thing_ids == tuple(range(1, 11))


def test_loading_a_manifest_imports_no_torch() -> None:
    code = (
        "import sys; from kc.data.manifest import load_manifest; load_manifest('camvid'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
