"""--save-predictions: what is written scores, in the hands of other programs, what our results say."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from kc.compare import run
from kc.config import RunConfig
from kc.data.predictions import PredictionWriter
from kc.metrics.instances import InstancePrecision
from kc.metrics.panoptic import PanopticQuality
from kc.parsing import parse
from kc.stream.resume import MethodState
from kc.types import VOID, ClassInfo, Instances, Prediction

COMMON: dict[str, Any] = {
    "tasks": 2, "methods": "knn", "epochs": 1, "accelerator": "cpu", "wandb": "disabled",
    "save_predictions": True,
}  # fmt: skip


def run_with(out: Path, **more: Any) -> tuple[Path, dict[str, Any]]:
    """The predictions of the first method, and its part of the results."""
    folder = run(RunConfig(**{**COMMON, **more, "out": out}), Console(quiet=True))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return folder / "methods" / f"{results['methods'][0]['name']}-s0" / "predictions", dict(results["methods"][0])


def naive_miou(answers: Path, truth: Path) -> float:
    """IoU of every class of the ground truth from the pixels of all PNGs, straight from its definition."""
    names = sorted(p.name for p in truth.iterdir())
    assert names == sorted(p.name for p in answers.iterdir())
    found = np.concatenate([np.array(Image.open(answers / n)).ravel() for n in names])
    asked = np.concatenate([np.array(Image.open(truth / n)).ravel() for n in names])
    found, asked = found[asked != 255], asked[asked != 255]
    ious = []
    for c in np.unique(asked):
        ious.append(((found == c) & (asked == c)).sum() / ((found == c) | (asked == c)).sum())
    return float(np.mean(ious))


def test_semantic_pngs(tiny_index_png: SimpleNamespace, tmp_path: Path) -> None:
    folder, method = run_with(tmp_path, benchmark=str(tiny_index_png.path), data_root=tiny_index_png.root)
    assert sorted(p.name for p in folder.iterdir()) == ["classes.json", "semantic", "truth"]
    assert len(list((folder / "semantic").iterdir())) == 3
    assert naive_miou(folder / "semantic", folder / "truth" / "semantic") == pytest.approx(method["seen"][-1])


def test_panoptic_files_score_the_same_in_panopticapi(tmp_path: Path) -> None:
    evaluation = pytest.importorskip("panopticapi.evaluation", reason="panopticapi is not installed")
    rng = np.random.default_rng(0)
    classes = (ClassInfo(1, "cat", is_thing=True), ClassInfo(300, "dog", is_thing=True), ClassInfo(9, "grass"),
               ClassInfo(7, "later"))  # fmt: skip
    folder, vocabulary = tmp_path / "predictions", (1, 300, 9)
    writer, ours = PredictionWriter(folder, "panoptic", classes), PanopticQuality(vocabulary, [1, 300])
    writer.start()
    for i in range(6):
        truth = np.zeros((24, 30, 2), np.int32)
        truth[..., 0] = 9
        for number, (row, column) in enumerate([(1, 1), (1, 14), (13, 4)], start=1):
            truth[row : row + 9, column : column + 10] = (1 if number % 2 else 300, number)
        truth[:, 28:], truth[20:, :4] = (VOID, 0), (7, 0)
        found = np.roll(truth, rng.integers(-3, 4, 2), (0, 1))
        found[found[..., 0] == 7] = (VOID, 0)
        found[12:14] = (9, 0)
        crowd = frozenset({2}) if i == 0 else frozenset()
        ours.update(truth, found, crowd)
        batch = {"sample_id": [f"test/a/{i}"], "semantic": [truth[..., 0]], "panoptic": [truth], "crowd": [crowd]}
        semantic = found[..., 0].astype(np.int64)
        writer.add(None, batch, Prediction(vocabulary, semantic=[semantic], panoptic=[found]))
    writer.finish()
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = evaluation.pq_compute(
            str(folder / "truth" / "panoptic.json"), str(folder / "panoptic.json"),
            str(folder / "truth" / "panoptic"), str(folder / "panoptic"),
        )  # fmt: skip
    wanted = ours.compute()
    assert [theirs["All"][k] for k in ("pq", "sq", "rq")] == pytest.approx([wanted[k] for k in ("pq", "sq", "rq")])
    assert [theirs["Things"]["pq"], theirs["Stuff"]["pq"]] == pytest.approx([wanted["pq_things"], wanted["pq_stuff"]])
    # Something right, something missed and something invented of every class, or equality would say little.
    assert all((counts > 0).all() for counts in (ours.stats.tp, ours.stats.fp, ours.stats.fn))
    assert theirs["All"]["pq"] == pytest.approx(0.2894535)


def test_panoptic_files_hold_the_segments_of_the_maps(tiny_coco: SimpleNamespace, tmp_path: Path) -> None:
    folder, method = run_with(tmp_path, benchmark=str(tiny_coco.path), data_root=tiny_coco.root, proposals="oracle")
    assert naive_miou(folder / "semantic", folder / "truth" / "semantic") == pytest.approx(method["final"]["miou"])
    for place in (folder, folder / "truth"):
        content = json.loads((place / "panoptic.json").read_text())
        for annotation in content["annotations"]:
            rgb = np.array(Image.open(place / "panoptic" / annotation["file_name"])).astype(int)
            ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
            semantic = np.array(Image.open(place / "semantic" / annotation["file_name"]))
            assert set(np.unique(ids)) - {0} == {s["id"] for s in annotation["segments_info"]}
            for segment in annotation["segments_info"]:
                assert np.unique(semantic[ids == segment["id"]]).tolist() == [segment["category_id"]]
                assert (ids == segment["id"]).sum() == segment["area"]


def test_instances_score_the_same_in_pycocotools(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    classes = (ClassInfo(1, "cat", is_thing=True), ClassInfo(2, "dog", is_thing=True), ClassInfo(9, "grass"))
    writer = PredictionWriter(tmp_path / "predictions", "panoptic", classes)
    ours = InstancePrecision([1, 2])
    writer.start()
    for i in range(5):
        truth = np.zeros((24, 30, 2), np.int32)
        truth[..., 0] = 9
        for number, (row, column) in enumerate([(1, 1), (1, 14), (13, 4)], start=1):
            truth[row : row + 9, column : column + 10] = (1 + number % 2, number)
        truth[:, 28:] = (VOID, 0)
        masks, class_ids = [], []
        for number in (1, 2, 3, 3):
            masks.append(np.roll((truth[..., 1] == number), rng.integers(-3, 4, 2), (0, 1)))
            class_ids.append(1 + number % 2 if rng.random() < 0.8 else 2)
        masks.append(np.zeros((24, 30), bool))
        masks[-1][:, 26:] = True  # mostly on void
        scores = np.sort(rng.random(5).astype(np.float32))[::-1].copy()
        found = Instances(np.stack(masks), np.array([*class_ids, 1]), scores)
        crowd = frozenset({2}) if i == 0 else frozenset()
        ours.update(truth, found, crowd)
        batch = {"sample_id": [f"test/{i}"], "semantic": [truth[..., 0]], "panoptic": [truth], "crowd": [crowd]}
        semantic = truth[..., 0].astype(np.int64)
        writer.add(None, batch, Prediction((1, 2, 9), semantic=[semantic], panoptic=[truth], instances=[found]))
    writer.finish()
    with contextlib.redirect_stdout(io.StringIO()):
        truth_file = COCO(str(tmp_path / "predictions" / "truth" / "instances.json"))
        scorer = COCOeval(truth_file, truth_file.loadRes(str(tmp_path / "predictions" / "instances.json")), "segm")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    wanted = ours.compute()
    assert scorer.stats[:3].tolist() == pytest.approx([wanted["ap"], wanted["ap_50"], wanted["ap_75"]], abs=1e-6)
    assert 0.1 < wanted["ap"] < 0.9


def test_panoptic_files_keep_the_ids_of_the_owners_annotations(tiny_coco: SimpleNamespace, tmp_path: Path) -> None:
    folder, method = run_with(tmp_path, benchmark=str(tiny_coco.path), data_root=tiny_coco.root, proposals="oracle")
    owner = json.loads((tiny_coco.folder / "annotations" / "test.json").read_text())
    saved, truth = (json.loads((place / "panoptic.json").read_text()) for place in (folder, folder / "truth"))
    for content in (saved, truth):
        fields = ("id", "height", "width")
        assert [[i[f] for f in fields] for i in content["images"]] == [[i[f] for f in fields] for i in owner["images"]]
        assert [a["image_id"] for a in content["annotations"]] == [a["image_id"] for a in owner["annotations"]]
        named = [[c[f] for f in ("id", "name", "isthing")] for c in content["categories"]]
        assert named == [[c[f] for f in ("id", "name", "isthing")] for c in owner["categories"]]
    for mine, theirs in zip(truth["annotations"], owner["annotations"], strict=True):
        assert sorted((s["category_id"], s["iscrowd"]) for s in mine["segments_info"]) == sorted(
            (s["category_id"], s["iscrowd"]) for s in theirs["segments_info"]
        )
    evaluation = pytest.importorskip("panopticapi.evaluation", reason="panopticapi is not installed")
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = evaluation.pq_compute(
            str(tiny_coco.folder / "annotations" / "test.json"), str(folder / "panoptic.json"),
            str(tiny_coco.folder / "annotations" / "test"), str(folder / "panoptic"),
        )  # fmt: skip
    assert theirs["All"]["pq"] == pytest.approx(method["final"]["pq"])


def test_instances_are_scored_by_pycocotools_with_the_owners_annotations(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = np.full((24, 30, 2), (9, 0), np.int32)
    truth[2:12, 3:13] = (2, 1)
    square = [[3, 2, 13, 2, 13, 12, 3, 12]]
    owner = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 24, "width": 30} for n in (700, 41)],
        "annotations": [
            {"id": i, "image_id": n, "category_id": 2, "segmentation": square, "area": 100, "iscrowd": 0,
             "bbox": [3, 2, 10, 10]} for i, n in enumerate((700, 41), start=1)
        ],
        "categories": [{"id": 2, "name": "dog"}],
    }  # fmt: skip
    (tmp_path / "owner.json").write_text(json.dumps(owner))
    classes = (ClassInfo(2, "dog", is_thing=True), ClassInfo(9, "grass"))
    writer = PredictionWriter(tmp_path / "out", "panoptic", classes, {5: 700, 2: 41}.__getitem__)
    writer.start()
    found = Instances((truth[..., 1] == 1)[None], np.array([2]), np.ones(1, np.float32))
    for row in (5, 2):
        batch = {"sample_id": [f"test/{row}"], "index": np.array([row]), "semantic": [truth[..., 0]],
                 "panoptic": [truth], "crowd": [frozenset()]}  # fmt: skip
        semantic = truth[..., 0].astype(np.int64)
        writer.add(None, batch, Prediction((2, 9), semantic=[semantic], panoptic=[truth], instances=[found]))
    writer.finish()
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(tmp_path / "owner.json"))
        scorer = COCOeval(theirs, theirs.loadRes(str(tmp_path / "out" / "instances.json")), "segm")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    assert scorer.stats[0] == pytest.approx(1)


def test_table_of_a_classification(tmp_path: Path) -> None:
    folder, method = run_with(tmp_path, benchmark="digits", limit_images=40)
    with (folder / "answers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    hits = np.mean([row["label"] == row["answer"] for row in rows])
    assert hits == pytest.approx(method["seen"][-1])
    assert {row["answer_name"] for row in rows} <= {row["label_name"] for row in rows}


def test_each_task_has_a_part_where_each_is_asked_for_itself(tmp_path: Path) -> None:
    folder, method = run_with(tmp_path, benchmark="digits", limit_images=40, stream="task")
    assert sorted(p.name for p in folder.iterdir()) == ["task-1", "task-2"]
    for t in range(2):
        with (folder / f"task-{t + 1}" / "answers.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert np.mean([r["label"] == r["answer"] for r in rows]) == pytest.approx(method["matrix"][-1][t])


def test_a_stop_before_the_last_task_counts_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are in place before the task counts as done, and a resumed run writes them again."""
    save = MethodState.save

    def stop(self: MethodState, folder: Path) -> None:
        if self.tasks_done == 2:
            raise KeyboardInterrupt
        save(self, folder)

    monkeypatch.setattr(MethodState, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        run_with(tmp_path, benchmark="digits", limit_images=40, methods="ncm")
    (folder,) = tmp_path.iterdir()
    answers = folder / "methods" / "ncm-s0" / "predictions" / "answers.csv"
    before = answers.read_bytes()
    answers.unlink()
    monkeypatch.undo()
    assert yaml.safe_load((folder / "config.yaml").read_text())["save_predictions"] is True
    run(parse(["--resume", str(folder), "--accelerator", "cpu", "--wandb", "disabled"]), Console(quiet=True))
    assert answers.read_bytes() == before
    assert not answers.parent.with_name("predictions.part").exists()


def test_nothing_is_written_unasked(tmp_path: Path) -> None:
    folder, _ = run_with(tmp_path, benchmark="digits", limit_images=40, save_predictions=False)
    assert not folder.exists()
