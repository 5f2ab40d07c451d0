"""Evaluation, cost, checkpoints and the record, on a method that answers by a script."""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from kc.errors import RunError
from kc.methods.module import ContinualMethod
from kc.metrics.confusion import class_groups
from kc.stream.evaluate import evaluate
from kc.stream.progress import CostMeter
from kc.stream.results import CLOSED, build_results
from kc.stream.resume import MethodState, load_checkpoint, save_checkpoint
from kc.types import VOID, Instances, Prediction, Task


class Scripted:
    """Answers each batch with what it carries."""

    def predict(self, batch: Mapping[str, Any], vocabulary: Sequence[int]) -> Prediction:
        return Prediction(
            tuple(vocabulary),
            scores=batch.get("scores"),
            semantic=batch.get("said", []),
            panoptic=batch.get("said_panoptic", []),
            instances=batch.get("instances", []),
        )


METHOD = cast(ContinualMethod, Scripted())


def test_classification_scores_by_hand() -> None:
    scores = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    batch = {"scores": scores, "label": torch.tensor([7, 7, 9, 8])}
    result = evaluate(METHOD, [batch], (7, 8, 9), "classification")
    assert result.per_class == {7: 0.5, 8: 0.0, 9: 1.0}
    assert result.seen == 0.5
    assert result.of_task(Task(1, (7, 9), (7, 8, 9), ("a", "c"))) == pytest.approx(2 / 3)  # images, not classes


def test_a_class_without_a_test_image_is_undefined() -> None:
    batch = {"scores": torch.tensor([[1.0, 0.0]]), "label": torch.tensor([1])}
    result = evaluate(METHOD, [batch], (1, 2), "classification")
    assert result.per_class[1] == 1.0
    assert math.isnan(result.per_class[2])
    assert math.isnan(result.of_task(Task(0, (2,), (1, 2), ("b",))))


def test_semantic_scores_by_hand() -> None:
    truth, said = np.array([[1, 1, 2, VOID]]), np.array([[1, 2, 2, 1]])
    result = evaluate(METHOD, [{"semantic": [truth], "said": [said]}], (1, 2), "semantic")
    assert result.per_class == {1: 0.5, 2: 0.5}
    assert result.seen == 0.5


def test_groups_of_classes_have_their_own_miou() -> None:
    truth, said = np.array([[1, 1, 2, 3]]), np.array([[1, 2, 2, 3]])
    tasks = [Task(t, (t + 1,), tuple(range(1, t + 2)), (str(t),)) for t in range(3)]
    groups = class_groups(tasks, 2)
    assert groups == {"base": (1,), "novel": (2, 3), "old": (1, 2), "new": (3,)}
    final = evaluate(METHOD, [{"semantic": [truth], "said": [said]}], (1, 2, 3), "semantic", groups=groups).final
    assert (final["miou_base"], final["miou_novel"]) == (0.5, 0.75)
    assert (final["miou_old"], final["miou_new"]) == (0.5, 1.0)
    assert final["miou_harmonic"] == pytest.approx(2 * 0.5 * 0.75 / 1.25)
    first = evaluate(METHOD, [{"semantic": [truth], "said": [said]}], (1,), "semantic", groups=class_groups(tasks, 0))
    assert math.isnan(first.final["miou_novel"])
    assert math.isnan(first.final["miou_harmonic"])


def test_panoptic_scores_by_hand() -> None:
    truth = np.zeros((1, 4, 2), np.int32)
    truth[0, :, 0], truth[0, :, 1] = [1, 1, 2, 2], [0, 0, 1, 2]
    said = truth.copy()
    said[0, 3] = (1, 0)  # the second thing is missed, the stuff grows
    batch = {"semantic": [truth[..., 0]], "said": [said[..., 0]], "panoptic": [truth], "said_panoptic": [said],
             "crowd": [frozenset()]}  # fmt: skip
    result = evaluate(METHOD, [batch], (1, 2), "panoptic", thing_ids=(2,))
    assert result.per_class[1] == pytest.approx(2 / 3)  # one match of IoU 2/3
    assert result.per_class[2] == pytest.approx(1 / 1.5)  # one perfect match, one miss
    assert result.seen == pytest.approx(2 / 3)
    assert all(math.isnan(result.final[k]) for k in ("ap", "ap_50", "ap_75"))  # it scores no instances
    masks = np.array([[[0, 0, 1, 0]], [[0, 0, 0, 1]], [[1, 1, 0, 0]]], dtype=bool)
    instances = Instances(masks, np.array([2, 2, 2]), np.array([0.9, 0.3, 0.6], dtype=np.float32))
    scored = evaluate(METHOD, [{**batch, "instances": [instances]}], (1, 2), "panoptic", thing_ids=(2,))
    # The best is right, then one is wrong: precision 1 up to recall 1/2, after it 2/3.
    assert scored.final["ap"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert scored.seen == result.seen


def test_cost_sees_the_peak_and_stops_once() -> None:
    with CostMeter(interval=0.005) as idle:
        time.sleep(0.05)
    with CostMeter(interval=0.005) as busy:
        time.sleep(0.05)
        before = busy.peak_rss_bytes
        block = mmap.mmap(-1, 60 * 2**20)  # fresh pages: an allocator may hand out what is resident already
        block.write(b"1" * len(block))
        limit = time.monotonic() + 30  # a busy machine may let the sampling thread wait
        while busy.peak_rss_bytes - before < 30 * 2**20 and time.monotonic() < limit:
            time.sleep(0.01)
        block.close()
    assert busy.peak_rss_bytes - before >= 30 * 2**20
    assert idle.peak_rss_bytes > 0
    seconds = busy.seconds
    busy.stop()
    assert busy.seconds == seconds >= 0.05


def test_checkpoints_come_back_and_damage_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, {"w": torch.arange(4.0)}, {"class_ids": [1, 2]})
    tensors, meta = load_checkpoint(tmp_path, 3)
    assert torch.equal(tensors["w"], torch.arange(4.0))
    assert meta == {"class_ids": [1, 2]}
    path = tmp_path / "checkpoint-003.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(RunError, match="checkpoint-003"):
        load_checkpoint(tmp_path, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-003.safetensors"]


def test_a_state_comes_back_and_a_torn_one_is_refused(tmp_path: Path) -> None:
    assert MethodState.load(tmp_path) is None
    state = MethodState("knn", 0, "pq", rows=[[0.5, None]], seen=[0.5])
    state.save(tmp_path)
    assert MethodState.load(tmp_path) == state
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(RunError, match=r"state\.json"):
        MethodState.load(tmp_path)


def make_state(name: str, rows: list[list[float | None]], baseline: list[float | None]) -> MethodState:
    cost = {"seconds": 1.0, "peak_rss_bytes": 1, "trained_parameters": 0, "stored_bytes": 2}
    per_class: list[dict[str, float | None]] = [{"a": 1.0}, {"a": 0.5, "b": 1.0}]
    return MethodState(name, 0, "accuracy", rows, [0.9, 0.6], per_class, {"accuracy": 0.6}, [cost, cost], baseline)


def test_the_record_holds_the_published_metrics() -> None:
    knn = make_state("knn", [[0.9, None], [0.5, 0.7]], [])
    joint = make_state("joint", [[1.0, None], [0.8, 0.9]], [])
    zero = make_state("zeroshot", [[0.4, 0.3], [0.4, 0.3]], [0.4, 0.2])
    results = build_results(
        [knn, joint, zero], benchmark="x", task_kind="classification", setting="overlapped", split=None,
        tasks=[["a"], ["b"]], seeds=[0], config={}, versions={}, fingerprints={},
    )  # fmt: skip
    first, second, third = (m.metrics for m in results.methods)
    assert first.average == pytest.approx(0.6)
    assert first.average_incremental == pytest.approx(0.75)
    assert first.forgetting == pytest.approx(0.4)
    assert first.backward_transfer == pytest.approx(-0.4)
    assert first.intransigence == pytest.approx(((1.0 - 0.9) + (0.9 - 0.7)) / 2)
    assert first.forward_transfer is None
    assert results.methods[0].undefined["forward_transfer"] == CLOSED
    assert second.intransigence == pytest.approx(0.0)
    assert third.forward_transfer == pytest.approx(0.1)
    assert results.methods[0].per_class == {"a": [1.0, 0.5], "b": [None, 1.0]}
