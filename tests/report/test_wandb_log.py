"""W&B payloads, read back from the file of an offline run."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from wandb.proto import wandb_internal_pb2 as pb

from kc.report import wandb_log
from kc.report.examples import Example
from kc.report.records import Results
from kc.types import VOID, ClassInfo

Make = Callable[..., Results]


def records(path: Path) -> Iterator[Any]:
    """The protobuf records of a .wandb file: LevelDB's log format after a header of seven bytes."""
    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0:
            return
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = pb.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def example(shape: tuple[int, int] = (6, 8), *, big: bool = False) -> Example:
    rng = np.random.default_rng(0)
    far = 700 if big else 7
    infos = (ClassInfo(1, "one"), ClassInfo(far, "far, away"))
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    truth = np.stack([rng.choice([1, far, VOID], shape), np.zeros(shape, np.int64)], axis=-1).astype(np.int32)
    return Example(f"{shape}", image, truth, infos, {"knn": truth[::-1].copy()})


def test_an_offline_run_holds_everything(make_results: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, disable_code=True)
    result = make_results(3, methods=("knn",)).methods[0]
    run = wandb.init(mode="offline", dir=str(tmp_path), project="kc", settings=settings)
    try:
        wandb_log.define_metrics(run, ("knn/",))
        for t in range(3):
            run.log(
                wandb_log.task_payload(
                    t, result.matrix[t], result.seen[t], result.cost[t], forgetting=[0.25] * t, prefix="knn/"
                )
            )
        pictures = wandb_log.example_images([example(), example((9, 5))], "knn")
        last = wandb_log.final_payload(result, prefix="knn/")
        run.log({"matrix": wandb_log.matrix_table(result), "examples": pictures, **last})
    finally:
        run.finish()
        wandb.teardown()  # `finish` returns before the last bytes of an offline run are on disk
    found = list(records(next(tmp_path.rglob("*.wandb"))))
    metrics = {r.metric.glob_name or r.metric.name: r.metric.step_metric for r in found if r.HasField("metric")}
    assert metrics["knn/score/*"] == metrics["knn/forgetting/*"] == metrics["knn/cost/*"] == "task"
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in r.history.item}
        for r in found
        if r.HasField("history")
    ]
    assert [h["task"] for h in history] == [1, 2, 3, 3]
    assert history[1]["knn/score/seen"] == result.seen[1]
    assert history[2]["knn/score/task_01"] == result.matrix[2][0]
    assert "knn/score/task_03" not in history[1]
    assert "knn/forgetting/mean" not in history[0]
    assert history[2]["knn/forgetting/mean"] == 0.25
    assert history[2]["knn/cost/stored_bytes"] == result.cost[2].stored_bytes
    assert history[3]["knn/final/average"] == result.metrics.average
    assert "knn/final/forward_transfer" not in history[3]
    assert (history[3]["examples/count"], history[3]["examples/width"]) == (2, 8)
    own = [
        json.loads(i.value_json) for r in found if r.HasField("config") for i in r.config.update if i.key == "_wandb"
    ]
    labels = own[-1]["mask/class_labels"].values()
    assert [sorted(v["value"].values()) for v in labels] == [["far, away", "not labelled", "one"]] * 2
    files = [p for p in tmp_path.rglob("media/**/*") if p.is_file()]
    assert sum(p.suffix == ".png" and "mask" not in str(p) for p in files) == 2
    assert sum(p.name.endswith(".mask.png") for p in files) == 4
    (table,) = [json.loads(p.read_text()) for p in files if p.name.endswith(".table.json")]
    assert table["columns"] == ["after task", "task 1", "task 2", "task 3"]
    assert table["data"][1] == [2, *result.matrix[1]]


def test_undefined_values_are_left_out(make_results: Make) -> None:
    result = make_results(3, methods=("knn",)).methods[0]
    payload = wandb_log.task_payload(2, [None, float("nan"), 0.5], None, result.cost[2], forgetting=[None, 0.1])
    assert {k for k in payload if not k.startswith("cost/")} == {"task", "score/task_03", "forgetting/task_02"}
    assert payload["task"] == 3


def test_pictures_are_padded_to_one_size() -> None:
    pictures = wandb_log.example_images([example((6, 8)), example((9, 5))], "knn")
    assert {p.image.size for p in pictures} == {(8, 9)}
    assert wandb_log.example_images([example()], "other") == []


def test_masks_name_their_classes_and_keep_their_ids() -> None:
    mask = np.array([[1, 7], [VOID, 9]])
    (layers,), labels = wandb_log.eight_bits([{"truth": mask}], {1: "one", 7: "far", VOID: "not labelled", 3: "x"})
    assert labels == {1: "one", 7: "far", 9: "class 9", 255: "not labelled"}
    assert layers["truth"].dtype == np.uint8
    assert layers["truth"].tolist() == [[1, 7], [255, 9]]


def test_ids_beyond_eight_bits_are_numbered_anew_for_all_pictures() -> None:
    maps = [{"truth": np.array([[1, 700]])}, {"truth": np.array([[VOID, 700]])}]
    masks, labels = wandb_log.eight_bits(maps, {1: "one", 700: "far", VOID: "void"})
    assert labels == {0: "void", 1: "one", 2: "far"}
    assert [m["truth"].tolist() for m in masks] == [[[1, 2]], [[0, 2]]]


def test_more_classes_than_a_mask_holds() -> None:
    mask = np.concatenate([np.arange(300), np.arange(10, 300)])[None]  # ids 0 to 9 have fewest pixels
    (layers,), labels = wandb_log.eight_bits([{"truth": mask}], {})
    assert len(labels) == 256
    assert labels[0] == "class 10"
    assert labels[255] == "other classes"
    assert (layers["truth"][0, :10] == 255).all()
    assert layers["truth"][0, 20] == 10


def test_classification_is_said_in_the_caption() -> None:
    infos = (ClassInfo(0, "cat"), ClassInfo(1, "dog"))
    (picture,) = wandb_log.example_images([Example("a/1", np.zeros((4, 4, 3), np.uint8), 0, infos, {"knn": 1})], "knn")
    assert picture._caption == "a/1; truth: cat, knn: dog"
