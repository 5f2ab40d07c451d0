"""The reservoir: fixed ranks, quotas, half of each batch, and a state that survives."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from kc.errors import KcError
from kc.methods.base import Context
from kc.methods.finetune.replay import Replay, narrowed, priority
from kc.methods.training_options import Training
from kc.types import HIDDEN, VOID, ClassInfo, Task, TaskKind


def context(kind: TaskKind, exemplars: int) -> Context:
    encoder = SimpleNamespace(pooled_dim=4, channels=(3, 5), unit_pooled=True)
    classes = {c: ClassInfo(c, str(c)) for c in (1, 2, 3)}
    config = Training(exemplars=exemplars)
    return Context(kind, classes, cast(Any, encoder), cast(Any, None), config, 0, Path())


def batch(label: int, n: int) -> dict[str, Any]:
    return {
        "image": torch.full((n, 3, 2, 2), label / 255),
        "sample_id": [f"{label}-{i:02d}" for i in range(n)],
        "label": torch.full((n,), label),
    }


TASKS = [Task(0, (1,), (1,), ("1",)), Task(1, (2,), (1, 2), ("2",)), Task(2, (3,), (1, 2, 3), ("3",))]


def learn(method: Replay, t: int, n: int = 20) -> None:
    method.start_task(TASKS[t])
    method._offer(batch(TASKS[t].class_ids[0], n))
    method.end_task(TASKS[t])


def test_quotas_shrink_and_keep_the_lowest_ranks() -> None:
    method = Replay(context("classification", 12))
    for t, quota in enumerate((12, 6, 4)):
        learn(method, t)
        for label in range(1, t + 2):
            kept = sorted(e.sample_id for e in method.exemplars if e.classes == (label,))
            ids = [f"{label}-{i:02d}" for i in range(20)]
            assert kept == sorted(sorted(ids, key=lambda s: priority(0, label - 1, label, s))[:quota])


def test_the_order_of_the_stream_does_not_matter() -> None:
    first, second = (Replay(context("classification", 5)) for _ in range(2))
    first.start_task(TASKS[0])
    second.start_task(TASKS[0])
    whole = batch(1, 20)
    first._offer(whole)
    for i in reversed(range(20)):
        second._offer({k: v[i : i + 1] for k, v in whole.items()})
    first.end_task(TASKS[0])
    second.end_task(TASKS[0])
    assert [e.sample_id for e in first.exemplars] == [e.sample_id for e in second.exemplars]


def test_half_of_a_batch_is_old() -> None:
    method = Replay(context("classification", 10))
    learn(method, 0)
    method.start_task(TASKS[1])
    mixed = method._with_exemplars(batch(2, 8))
    assert mixed["label"].tolist() == [2] * 8 + [1] * 8
    assert torch.allclose(mixed["image"][8:], torch.full((8, 3, 2, 2), 1 / 255))
    assert len(mixed["sample_id"]) == 16


def test_unlabelled_pixels_of_exemplars_are_void() -> None:
    method = Replay(context("semantic", 10))
    method.start_task(TASKS[0])
    seen = {"image": torch.zeros(1, 3, 2, 2), "sample_id": ["a"], "semantic": torch.tensor([[[1, HIDDEN], [VOID, 1]]])}
    method._offer(seen)
    method.end_task(TASKS[0])
    assert method.exemplars[0].target.tolist() == [[1, VOID], [VOID, 1]]


def test_classes_that_share_images_use_the_whole_budget() -> None:
    """Every image holds classes 1 and 2: each class keeps its own five, not the same five twice."""
    method = Replay(context("semantic", 10))
    task = Task(0, (1, 2), (1, 2), ("1", "2"))
    method.start_task(task)
    labels = torch.tensor([[[1, 2], [2, 1]]]).expand(40, -1, -1)
    method._offer({"image": torch.zeros(40, 3, 2, 2), "sample_id": [f"{i:02d}" for i in range(40)], "semantic": labels})
    method.end_task(task)
    kept = {e.sample_id for e in method.exemplars}
    ids = [f"{i:02d}" for i in range(40)]
    own = [set(sorted(ids, key=lambda s: priority(0, 0, c, s))[:5]) for c in (1, 2)]
    assert kept == own[0] | own[1]
    assert len(kept) > 7


def test_state_comes_back() -> None:
    method = Replay(context("classification", 6))
    learn(method, 0)
    learn(method, 1)
    tensors, meta = method.state()
    other = Replay(context("classification", 6))
    other.load_state(tensors, meta)
    assert [(e.sample_id, e.task, e.classes) for e in other.exemplars] == [
        (e.sample_id, e.task, e.classes) for e in method.exemplars
    ]
    assert other.classifier.class_ids == [1, 2]
    pairs = zip(other.state()[0].values(), method.state()[0].values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert other.stored_bytes() == method.stored_bytes() > 0


def test_a_budget_below_the_classes_is_refused() -> None:
    method = Replay(context("classification", 1))
    learn(method, 0)
    with pytest.raises(KcError, match="1 exemplars for 2 classes"):
        method.start_task(TASKS[1])


def test_a_checkpoint_that_does_not_fit_lists_its_keys() -> None:
    method = Replay(context("classification", 6))
    learn(method, 0)
    tensors, meta = method.state()
    tensors["strange"] = tensors.pop("head.classifier.steps.0.bias")
    with pytest.raises(KcError, match=r"missing \['head.classifier.steps.0.bias'\], unexpected \['strange'\]"):
        Replay(context("classification", 6)).load_state(tensors, meta)


def test_weights_of_other_shapes_are_listed() -> None:
    method = Replay(context("classification", 6))
    learn(method, 0)
    tensors, meta = method.state()
    tensors["head.classifier.steps.0.bias"] = torch.zeros(9)
    with pytest.raises(KcError, match=r"size mismatch for head\.classifier\.steps\.0\.bias"):
        Replay(context("classification", 6)).load_state(tensors, meta)


@pytest.mark.parametrize(("top", "dtype"), [(32_767, torch.int16), (32_768, torch.int32), (2**31, torch.int64)])
def test_labels_are_kept_as_narrow_as_they_fit(top: int, dtype: torch.dtype) -> None:
    labels = torch.tensor([[VOID, 0], [HIDDEN, top]])
    kept = narrowed(labels)
    assert kept.dtype == dtype
    assert torch.equal(kept.long(), labels)
