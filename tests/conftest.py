"""Fixtures for every room: a cache folder of the test session, tiny benchmarks in the real formats, the real data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Read when torch loads: threads that spin while they wait slow a busy machine down (see kc.cli.execute).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import yaml
from PIL import Image

from kc.data.manifest import load_manifest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def kc_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache folder for the whole session, never the user's; digit-scenes is composed in it at most once."""
    folder = tmp_path_factory.mktemp("kc-cache")
    before = os.environ.get("KC_CACHE")
    os.environ["KC_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["KC_CACHE"]
    else:
        os.environ["KC_CACHE"] = before


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: KC_DATA, else `../shared/data` next to the repository; skips where there is none."""
    folder = Path(os.environ.get("KC_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "camvid").is_dir():
        pytest.skip(f"no real data in {folder}; set KC_DATA to a folder with camvid, caltech50 and coco200-panoptic")
    return folder


@pytest.fixture
def tiny_folder(tmp_path: Path) -> SimpleNamespace:
    """Classification in class folders: 3 classes, 4 train and 2 test images each, 20 x 24 (H x W), plain colours."""
    colors = {"red": (220, 30, 30), "green_leaf": (30, 200, 40), "blue": (20, 40, 230)}
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for folder, color in colors.items():
            for i in range(count):
                noisy = np.clip(np.array(color) + rng.integers(-15, 16, (20, 24, 3)), 0, 255)
                save(tmp_path / "data" / "tiny-folder" / split / folder / f"{i}.png", noisy)
    classes = [{"id": 0, "name": "red"}, {"id": 1, "name": "green leaf", "folder": "green_leaf"},
               {"id": 2, "name": "blue"}]  # fmt: skip
    splits = {"train": {"path": "train"}, "test": {"path": "test"}}
    return tiny(tmp_path, "tiny-folder", "classification", "folder", splits, classes, input_size=[16, 16])


@pytest.fixture
def tiny_index_png(tmp_path: Path) -> SimpleNamespace:
    """Semantic in index PNGs: classes 0, 1, 2, 3, ignore 9; 6 train, 2 val, 3 test images of 24 x 32.

    Image i holds class 0 (top), class 1 + i % 3 (bottom left) and an ignored bottom right corner.
    """
    top = tmp_path / "data" / "tiny-index"
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for i in range(count):
            mask = np.zeros((24, 32), dtype=np.uint8)
            mask[12:, :20] = 1 + i % 3
            mask[20:, 28:] = 9
            save(top / "images" / split / f"frame_{i}.png", np.stack([mask * 25, 255 - mask * 20, mask * 7 + 90], -1))
            save(top / "labels" / split / f"frame_{i}.png", mask)
    classes = [{"id": i, "name": name} for i, name in enumerate(["sky", "car", "tree", "road"])]
    splits = {s: {"images": f"images/{s}", "labels": f"labels/{s}"} for s in ("train", "val", "test")}
    return tiny(tmp_path, "tiny-index", "semantic", "index_png", splits, classes, input_size=[24, 32], ignore=9,
                task_splits={"2-1": [2, 1, 1]})  # fmt: skip


@pytest.fixture
def tiny_coco(tmp_path: Path) -> SimpleNamespace:
    """COCO panoptic: things 1 cat, 2 dog, 18 bird, stuff 90 grass, 200 sky; 5 train, 3 test images of 20 x 30.

    Every image: sky above (segment 7), grass below (segment 70000), two cats or dogs or birds (300, 301) by turns,
    the second of image 1 a crowd, and an unlabelled last column.
    """
    top = tmp_path / "data" / "tiny-coco"
    categories = [(1, "cat", 1), (2, "dog", 1), (18, "bird", 1), (90, "grass", 0), (200, "sky", 0)]
    for split, count in (("train", 5), ("test", 3)):
        images, annotations = [], []
        for i in range(count):
            ids = np.full((20, 30), 7, dtype=np.int64)
            ids[10:] = 70000
            ids[4:14, 2:8], ids[6:16, 6:14] = 300, 301
            ids[:, -1] = 0
            name = f"{i:06d}"
            save(top / "images" / split / f"{name}.png", np.stack([ids % 251, ids % 83, ids % 17 * 10], -1))
            save(top / "annotations" / split / f"{name}.png", np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1))
            thing = (1, 2, 18)[i % 3]
            segments = [(300, thing, 0), (301, thing, int(i == 1)), (7, 200, 0), (70000, 90, 0)]
            images.append({"id": i + 10, "file_name": f"{name}.png", "height": 20, "width": 30})
            annotations.append(
                {
                    "image_id": i + 10,
                    "file_name": f"{name}.png",
                    "segments_info": [{"id": s, "category_id": c, "iscrowd": crowd} for s, c, crowd in segments],
                }
            )
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": n, "isthing": t} for i, n, t in categories],
        }
        (top / "annotations" / f"{split}.json").write_text(json.dumps(content))
    classes = [{"id": i, "name": n, "thing": bool(t)} for i, n, t in categories]
    splits = {
        s: {"images": f"images/{s}", "annotations": f"annotations/{s}.json", "masks": f"annotations/{s}"}
        for s in ("train", "test")
    }
    return tiny(tmp_path, "tiny-coco", "panoptic", "coco_panoptic", splits, classes, input_size=[20, 30])


@pytest.fixture
def tiny_scenes(tmp_path: Path) -> SimpleNamespace:
    """digit-scenes with 20 train and 10 test scenes (composed once a session: the cache key is the content)."""
    content = yaml.safe_load((REPOSITORY / "data_manifests" / "digit-scenes.yaml").read_text())
    content |= {"name": "tiny-scenes", "splits": {"train": {"count": 20}, "test": {"count": 10}}}
    return written(tmp_path, content)


def tiny(
    tmp_path: Path,
    name: str,
    kind: str,
    reader: str,
    splits: dict[str, Any],
    classes: list[dict[str, Any]],
    **more: Any,
) -> SimpleNamespace:
    """A manifest over generated files: see `written`."""
    content = {
        "name": name,
        "task_kind": kind,
        "licence": "made by the tests",
        "homepage": "https://example.org/tiny",
        "source": {"reader": reader, "folder": name},
        "splits": splits,
        "classes": classes,
    }
    return written(tmp_path, content | more)


def written(tmp_path: Path, content: dict[str, Any]) -> SimpleNamespace:
    """`content` as a YAML file: .path (the file), .manifest, .content, .root (data root), .folder (the files)."""
    path = tmp_path / f"{content['name']}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    root = tmp_path / "data"
    return SimpleNamespace(
        path=path, manifest=load_manifest(path), content=content, root=root, folder=root / content["name"]
    )


def save(path: Path, array: np.ndarray) -> None:
    """An image file of a (H, W) or (H, W, 3) array of 0..255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)
