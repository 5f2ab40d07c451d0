"""A stored run opened again: what it says of single images is what was scored when it ran."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kc.cli import main
from kc.data.manifest import load_manifest
from kc.data.readers.open import open_reader
from kc.errors import KcError, RunError, UnknownNameError
from kc.memory.disk import Memory
from kc.memory.vote.votes import contributions
from kc.methods.regions import normalised
from kc.metrics.confusion import ConfusionMatrix
from kc.metrics.panoptic import PanopticQuality
from kc.predict.answer import Votes, as_json, mean_score, rle, voters_of
from kc.predict.opening import Overrides, open_memory, open_run
from kc.predict.render import write
from kc.registry import METHODS, method_spec
from kc.report.records import Results
from kc.types import VOID, Neighbours, Segments

PIXELS_ONLY = {name for name in METHODS if "classification" not in method_spec(name).kinds}
OF_IMAGES = ["finetune", "icarl", "knn", "ncm"]
"""One of each common kind of state: a head, exemplars, a memory, statistics."""
OF_MAPS = ["eclipse", "finetune", "knn"]
SLOW_OF_IMAGES = sorted(set(METHODS) - PIXELS_ONLY - set(OF_IMAGES))
SLOW_OF_MAPS = sorted({"wise-ft"} | PIXELS_ONLY - set(OF_MAPS))


def run(benchmark: SimpleNamespace, out: Path, *more: str) -> Path:
    arguments = ["--benchmark", str(benchmark.path), "--data-root", str(benchmark.root), "--wandb", "disabled"]
    assert main(["run", *arguments, "--epochs", "1", "--out", str(out), *more]) == 0
    (folder,) = out.iterdir()
    return folder


def scores(folder: Path) -> dict[str, float | None]:
    return {m.name: m.seen[-1] for m in Results.load(folder / "results.json").methods}


@pytest.mark.parametrize("methods", [OF_IMAGES, pytest.param(SLOW_OF_IMAGES, marks=pytest.mark.slow)])
def test_every_method_of_images_answers_as_it_was_scored(
    methods: list[str], tiny_folder: SimpleNamespace, tmp_path: Path
) -> None:
    tiny_folder.path.write_text(yaml.safe_dump(tiny_folder.content | {"input_size": [64, 64]}))
    more = ["--methods", ",".join(methods), "--tasks", "3"]
    more += ["--ranpac.dim", "16"] if "ranpac" in methods else []
    folder = run(tiny_folder, tmp_path / "runs", *more)
    moved = folder.rename(tmp_path / "moved, über")  # a run folder can be moved
    known = scores(moved)
    reader = open_reader(tiny_folder.manifest, "test", tiny_folder.root)
    samples = [reader.read(i) for i in range(len(reader))]
    for name in methods:
        predictor = open_run(moved, name)
        assert set(predictor.names) == {"red", "green leaf", "blue"}
        ids = {info.name: info.id for info in tiny_folder.manifest.info}
        right = [ids[predictor.predict(s.image).ranked()[0][0]] == s.label for s in samples]
        assert np.mean(right) == pytest.approx(known[name]), name
    if methods == SLOW_OF_IMAGES:
        return
    a_memory_elsewhere_answers_without_its_run(moved, tmp_path)
    with pytest.raises(UnknownNameError, match="Did you mean 'red'"):
        open_run(moved, "finetune").predict(samples[0].image, ["rad"])
    assert set(open_run(moved, "finetune").predict(samples[0].image, ["red", "blue"]).names.values()) == {"red", "blue"}
    with pytest.raises(KcError, match="one model"):
        open_run(moved, "ncm").predict(samples[0].image, view="memory")
    with pytest.raises(UnknownNameError, match="knn"):
        open_run(moved, "kn")
    with pytest.raises(RunError, match="with seed 0, not 3"):
        open_run(moved, "knn", 3)
    for checkpoint in (moved / "methods" / "finetune-s0").glob("checkpoint-*"):
        checkpoint.unlink()
    with pytest.raises(RunError, match="state of finetune was not stored or was deleted"):
        open_run(moved, "finetune")
    with pytest.raises(RunError, match="not the folder of a run"):
        open_run(tmp_path)


@pytest.mark.parametrize("methods", [OF_MAPS, pytest.param(SLOW_OF_MAPS, marks=pytest.mark.slow)])
def test_methods_of_maps_answer_as_they_were_scored(
    methods: list[str], tiny_index_png: SimpleNamespace, tmp_path: Path
) -> None:
    folder = run(tiny_index_png, tmp_path / "runs", "--methods", ",".join(methods), "--split", "2-1", "--limit-images",
                 "3")  # fmt: skip
    known = scores(folder)
    reader = open_reader(tiny_index_png.manifest, "test", tiny_index_png.root)
    for name in methods:
        predictor = open_run(folder, name)
        matrix = ConfusionMatrix((0, 1, 2, 3))
        for i in range(len(reader)):
            sample = reader.read(i)
            said = predictor.predict(sample.image)
            assert said.semantic is not None
            assert sum(int(a.mask.sum()) for a in said.areas) == said.semantic.size
            assert sample.semantic is not None
            matrix.update(sample.semantic, said.semantic)
        ious = [v for v in matrix.per_class().values() if not np.isnan(v)]
        assert np.mean(ious) == pytest.approx(known[name]), name


def test_a_memory_of_regions_says_who_voted(tiny_scenes: SimpleNamespace, tmp_path: Path) -> None:
    fewer = {"splits": {"train": {"count": 8}, "test": {"count": 3}}, "name": "tinier-scenes"}
    tiny_scenes.path.write_text(yaml.safe_dump(yaml.safe_load(tiny_scenes.path.read_text()) | fewer))
    manifest = load_manifest(tiny_scenes.path)
    folder = run(tiny_scenes, tmp_path / "runs", "--methods", "knn", "--tasks", "2", "--knn.k", "5")
    known = scores(folder)
    predictor = open_memory(folder / "methods" / "knn-s0" / "memory")
    reader = open_reader(manifest, "test", None)
    vocabulary = [c.id for c in manifest.info]
    quality = PanopticQuality(vocabulary, manifest.thing_ids)
    for i in range(len(reader)):
        sample = reader.read(i)
        said = predictor.predict(sample.image)
        assert said.panoptic is not None
        quality.update(sample.panoptic, said.panoptic, sample.crowd)
    assert quality.compute()["pq"] == pytest.approx(known["knn"])

    # Every area: its score and its voters are those of the regions that were given its class.
    assert said.regions is not None
    assert said.labels is not None
    assert said.confidence is not None
    assert said.votes is not None
    for area in said.areas:
        inside = np.bincount(said.regions.partition[area.mask], minlength=len(said.regions))  # type: ignore[index]
        assert (said.labels[inside > 0] == area.class_id).all()
        assert area.score == pytest.approx((inside * said.confidence).sum() / inside.sum())
        by_row: dict[int, float] = {}
        for region, pixels in enumerate(inside):
            votes = said.votes.cast[region]
            for row, vote in zip(said.votes.neighbours.id[region].tolist(), votes / votes.sum(), strict=True):
                by_row[row] = by_row.get(row, 0.0) + float(vote) * pixels / inside.sum()
        assert {v.row: pytest.approx(v.share) for v in area.voters}.items() <= by_row.items()
        shares = [v.share for v in area.voters]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] == pytest.approx(max(by_row.values()))
    plain = as_json([said], "x.png")
    masks = plain["answers"][0]["segments"]
    assert sum(s["area"] for s in masks) == sample.image.shape[0] * sample.image.shape[1]
    from pycocotools import mask as coco

    assert all((coco.decode(s["rle"]).astype(bool) == a.mask).all() for s, a in zip(masks, said.areas, strict=True))

    # A base is asked about names that the memory does not know; the memory's opinion alone stays what it was.
    both = open_memory(folder / "methods" / "knn-s0" / "memory", overrides=Overrides(base="conse"))
    names = ["zero", "one", "Salat, gemischt"]
    alone = both.predict(sample.image, names, "memory")
    assert (alone.semantic == predictor.predict(sample.image, names[:2]).semantic).all()
    base = both.predict(sample.image, names, "base")
    assert base.votes is None
    assert VOID not in np.unique(base.semantic)
    assert list(base.names.values()) == names
    write([base, alone, both.predict(sample.image, names)], "three.png", tmp_path)
    views = json.loads((tmp_path / "three.png.json").read_text(encoding="utf-8"))["answers"]
    assert [v["view"] for v in views] == ["base", "memory", "answer"]
    with Image.open(tmp_path / "three.png.png") as sheet:
        assert sheet.width > 3 * 256
    with pytest.raises(UnknownNameError, match="for others give --base conse"):
        predictor.predict(sample.image, names)
    with pytest.raises(KcError, match="give --base conse"):
        predictor.predict(sample.image, view="base")
    with pytest.raises(KcError, match="give --proposals superpixels"):
        open_memory(folder / "methods" / "knn-s0" / "memory", overrides=Overrides(proposals="oracle"))


def a_memory_elsewhere_answers_without_its_run(folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder / "methods" / "knn-s0" / "memory", tmp_path / "moved")
    predictor = open_memory(moved)
    image = np.full((20, 24, 3), 90, np.uint8)
    with torch.no_grad():
        features = predictor.context.encode(predictor.session.batch(image)).pooled
    found = Memory.open(moved).search(normalised(features), 16)
    cast = contributions(found, [0, 1, 2])
    said = predictor.predict(image)
    assert said.voters[0].row == int(found.id[0][cast[0].argmax()])
    assert sum(s for _, s in said.ranked()) == pytest.approx(1)


def test_shares_are_weighted_by_pixels(tmp_path: Path) -> None:
    """Region 0 has 3 pixels, region 1 has 1, region 2 none in the mask: by hand."""
    with Memory.create(tmp_path / "m", dim=2, fingerprint="f") as memory:
        from kc.types import Rows

        memory.add(Rows(np.eye(2, dtype=np.float32), np.array([4, 7]), ("a", "b"), np.zeros(2, np.int64)), 0)
        memory.commit(0)
        ids = np.array([[0, 1], [1, 0], [0, 1]])
        score = np.array([[0.9, 0.1], [0.8, 0.3], [1.0, 0.0]], np.float32)
        neighbours = Neighbours(ids, score, np.array([[4, 7], [7, 4], [4, 7]]), np.ones((3, 2), np.float32), ids * 0)
        votes = Votes(neighbours, np.array([[3.0, 1.0], [2.0, 0.0], [1.0, 1.0]]))
        first, second = voters_of(votes, np.array([3, 1, 0]), memory, {4: "cat"})
        assert (first.row, first.name, first.sample) == (0, "cat", "a")
        assert first.share == pytest.approx(3 / 4 * 3 / 4)
        assert first.cosine == pytest.approx(0.9)
        assert (second.row, second.name) == (1, "7")
        assert second.share == pytest.approx(3 / 4 * 1 / 4 + 1 / 4)
        assert second.cosine == pytest.approx(0.8)
        assert voters_of(votes, np.zeros(3, np.int64), memory, {}) == ()
    segments = Segments((2, 2), np.ones(2, np.float32), partition=np.array([[0, 0], [0, 1]], np.int32))
    assert mean_score(segments, np.array([0.2, 1.0], np.float32), np.ones((2, 2), bool)) == pytest.approx(0.4)
    assert np.isnan(mean_score(segments, np.array([0.2, 1.0], np.float32), np.zeros((2, 2), bool)))
    assert rle(np.array([[True, False], [True, True]])) == {"size": [2, 2], "counts": "021O"}
