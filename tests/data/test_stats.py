"""Counts against hand-made trees, and against a naive count of the real annotations."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from kc.data.manifest import load_manifest
from kc.data.readers.open import open_reader
from kc.data.split import build_tasks
from kc.data.stats import Counts, as_json, count


def test_panoptic_counts(tiny_coco: SimpleNamespace) -> None:
    manifest = tiny_coco.manifest
    tasks = build_tasks(manifest, 2)
    stats = count(manifest, "train", tasks, tiny_coco.root, workers=2)
    assert (stats.n_images, stats.n_pixels, stats.void_pixels) == (5, 5 * 600, 5 * 20)
    # Segment 300 covers rows 4..13, columns 2..5 (301 hides the rest): 40 + 2 * 4 pixels less what 301 takes.
    cat = 10 * 6 - 8 * 2
    dog = 10 * 8
    assert stats.classes[0] == Counts(2, 2 * (cat + dog), 4)  # images 0 and 3: two cats each
    assert stats.classes[1] == Counts(2, 2 * (cat + dog), 3)  # images 1 and 4; the second dog of image 1 is a crowd
    assert stats.classes[2] == Counts(1, cat + dog, 2)
    assert stats.classes[3].instances is None
    assert stats.classes[3].images == stats.classes[4].images == 5
    assert sum(c.pixels or 0 for c in stats.classes) == 5 * 580
    assert [len(t.class_ids) for t in tasks] == [3, 2]
    assert stats.tasks[0] == Counts(5, 5 * (cat + dog), 9)
    assert stats.tasks[1].instances is None


def test_steps_of_every_setting(tiny_index_png: SimpleNamespace) -> None:
    manifest = tiny_index_png.manifest  # image i holds class 0 and class 1 + i % 3
    tasks = build_tasks(manifest, split="2-1")
    stats = count(manifest, "train", tasks, tiny_index_png.root)
    ids = {
        s: [[i.removeprefix("train/frame_") for i in step.sample_ids] for step in stats.steps[s]] for s in stats.steps
    }
    assert ids["overlapped"] == [["0", "1", "2", "3", "4", "5"], ["1", "4"], ["2", "5"]]
    assert ids["disjoint"] == ids["sequential"] == [["0", "3"], ["1", "4"], ["2", "5"]]
    assert sorted(i for step in ids["partition"] for i in step) == ["0", "1", "2", "3", "4", "5"]
    assert stats.tasks[1].images == 2
    assert stats.classes[0].instances is None


def test_a_step_without_images_says_why(tiny_index_png: SimpleNamespace) -> None:
    manifest = tiny_index_png.manifest
    tasks = build_tasks(manifest, split="2-1")
    stats = count(manifest, "val", tasks, tiny_index_png.root)  # two images: no class 3
    step = stats.steps["overlapped"][2]
    assert step.sample_ids == ()
    assert step.problem is not None
    assert "task 2 (road) has no training image under setting 'overlapped'" in step.problem


def test_classification_needs_no_image(tiny_folder: SimpleNamespace) -> None:
    for file in (tiny_folder.folder / "train").rglob("*.png"):
        file.write_bytes(b"")  # counted from the folders alone
    manifest = tiny_folder.manifest
    tasks = build_tasks(manifest, 3)
    stats = count(manifest, "train", tasks, tiny_folder.root)
    assert stats.classes == (Counts(4, None, None),) * 3
    assert stats.n_pixels is None
    content = as_json(stats, manifest, tasks)
    assert json.loads(json.dumps(content))["steps"]["overlapped"][1]["sample_ids"][0] == "train/green_leaf/0.png"
    assert content["classes"][1] == {"id": 1, "name": "green leaf", "images": 4, "pixels": None, "instances": None}


def test_real_counts_are_those_of_the_annotation_file(shared_data: Path) -> None:
    """The JSON says area and crowd of every segment; nothing of kc is used to add them up."""
    manifest = load_manifest("coco200-panoptic")
    stats = count(manifest, "test", build_tasks(manifest), shared_data, limit=25)
    wanted = set(open_reader(manifest, "test", shared_data, 25).sample_ids)
    content = json.loads((shared_data / "coco200-panoptic/annotations/panoptic_val2017.json").read_text())
    area, instances = dict.fromkeys(manifest.class_ids(), 0), dict.fromkeys(manifest.class_ids(), 0)
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    for annotation in content["annotations"]:
        if f"test/{Path(annotation['file_name']).stem}" not in wanted:
            continue
        for segment in annotation["segments_info"]:
            area[segment["category_id"]] += segment["area"]
            instances[segment["category_id"]] += segment["category_id"] in things and not segment["iscrowd"]
    assert [c.pixels for c in stats.classes] == list(area.values())
    assert [c.instances or 0 for c in stats.classes] == list(instances.values())
    assert np.sum([c.images for c in stats.classes]) > 25
