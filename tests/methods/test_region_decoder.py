"""Fine-tuning on regions: the same keys as the memory, a loss by hand, exemplars that are keys, labels painted back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kc.methods.base import Context
from kc.methods.finetune.naive import Finetune
from kc.methods.finetune.replay import Replay
from kc.methods.regions import RegionEncoder
from kc.proposals.base import from_partition
from kc.proposals.cache import PartitionCache
from kc.types import VOID, Segments, Task, UInt8Array

TASKS = (Task(0, (0, 1), (0, 1), ("0", "1")), Task(1, (2,), (0, 1, 2), ("2",)))


class Quarters:
    """Four squares; counts how often it is asked."""

    key = "quarters"

    def __init__(self) -> None:
        self.asked = 0

    def propose(self, image: UInt8Array) -> Segments:
        self.asked += 1
        half = image.shape[0] // 2
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        return from_partition(2 * (y >= half) + (x >= half))


@pytest.fixture
def context(toy_context: Callable[..., Context], tmp_path: Path) -> Context:
    made = toy_context("semantic", background=True, decoder="regions", exemplars=4)
    partitions = PartitionCache(tmp_path / "proposals", Quarters())
    made.regions = RegionEncoder(made.encoder, made.features, partitions, "pooled")
    return made


def batch(labels: list[list[int]], training: bool = True, name: str = "s") -> dict[str, Any]:
    """16 x 16 images whose four quarters have the given labels; VOID: half of the quarter is class 0, half class 1."""
    raw, maps = [], []
    rng = np.random.default_rng(len(labels))
    for quarters in labels:
        target = np.zeros((16, 16), np.int64)
        for i, label in enumerate(quarters):
            window = np.s_[8 * (i // 2) : 8 * (i // 2) + 8, 8 * (i % 2) : 8 * (i % 2) + 8]
            target[window] = label
            if label == VOID:
                target[window] = np.indices((8, 8))[0] % 3  # no class holds half of it
        maps.append(target)
        raw.append(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    image = torch.stack([torch.from_numpy(r).permute(2, 0, 1).float() / 255 for r in raw])
    made = {"image": image, "raw": raw, "sample_id": [f"{name}{i}" for i in range(len(labels))]}
    if training:
        return {**made, "labels_raw": maps, "semantic": torch.from_numpy(np.stack(maps))}
    return {**made, "original_size": [(16, 16)] * len(labels)}


def test_the_loss_is_cross_entropy_over_regions_that_have_a_class(context: Context) -> None:
    method = Finetune(context)
    method.start_task(TASKS[0])
    assert context.regions is not None
    given = method.on_after_batch_transfer(batch([[0, 1, VOID, 1], [1, 0, 0, 0]]), 0)
    assert [x.tolist() for x in given["key_labels"]] == [[0, 1, VOID, 1], [1, 0, 0, 0]]
    keys = torch.cat(given["keys"])
    assert torch.allclose(keys.norm(dim=1), torch.ones(8))
    layer = method.classifier.steps
    scaled = keys * keys.shape[1] ** 0.5
    logits = torch.cat([step(scaled) for step in layer], dim=1)  # columns: class 0, class 1
    target = torch.tensor([0, 1, 1, 1, 0, 0, 0])
    expected = F.cross_entropy(logits[[0, 1, 3, 4, 5, 6, 7]], target)
    assert torch.allclose(method.loss_on(given), expected)


def test_a_batch_without_a_labelled_region_has_no_loss(context: Context) -> None:
    method = Finetune(context)
    method.start_task(TASKS[0])
    loss = method.loss_on(method.on_after_batch_transfer(batch([[VOID] * 4]), 0))
    assert loss.item() == 0.0
    loss.backward()


def test_answers_are_painted_and_stay_in_the_vocabulary(context: Context) -> None:
    method = Finetune(context)
    method.start_task(TASKS[0])
    method.start_task(TASKS[1])
    asked = batch([[0, 0, 0, 0], [0, 0, 0, 0]], training=False)
    assert context.regions is not None
    keys = torch.cat([torch.from_numpy(r.keys) for r in context.regions(asked)])
    logits = method.classifier(keys * keys.shape[1] ** 0.5)[:, [0, 2]]
    winners = np.array([0, 2])[logits.argmax(1).numpy()].reshape(2, 2, 2)
    answer = method.predict(asked, (0, 2))
    for found, quarters in zip(answer.semantic, winners, strict=True):
        assert (found == np.kron(quarters, np.ones((8, 8), np.int64))).all()


def test_it_learns_what_a_linear_head_can_learn(context: Context) -> None:
    """Dark and bright quarters: every region is right after a few steps."""
    method = Finetune(context)
    method.start_task(TASKS[0])
    given = batch([[0, 1, 1, 0], [1, 0, 1, 0]])
    for raw, target in zip(given["raw"], given["labels_raw"], strict=True):
        raw[...] = np.where(target[..., None] == 1, [250, 250, 20], [10, 10, 90])
    given["image"] = torch.stack([torch.from_numpy(r).permute(2, 0, 1).float() / 255 for r in given["raw"]])
    ready = method.on_after_batch_transfer(given, 0)
    optimizer = torch.optim.Adam(method.classifier.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        method.loss_on(ready).backward()
        optimizer.step()
    answer = method.predict({**given, "original_size": [(16, 16)] * 2}, (0, 1))
    assert all((a == b).all() for a, b in zip(answer.semantic, given["labels_raw"], strict=True))


def test_exemplars_are_keys_and_come_back(context: Context) -> None:
    method = Replay(context)
    method.start_task(TASKS[0])
    method._offer(method.on_after_batch_transfer(batch([[0, 1, VOID, 1], [1, 0, 0, 0]], name="a"), 0))
    method.end_task(TASKS[0])
    assert [e.sample_id for e in method.exemplars] == ["a0", "a1"]
    dim = context.regions.dim if context.regions else 0
    assert all(e.image.shape == (4, dim) and e.image.dtype == torch.float32 for e in method.exemplars)
    weights = 2 * (dim + 1)
    assert method.stored_bytes() == 4 * weights + 2 * (4 * dim * 4 + 4 * 2)

    method.start_task(TASKS[1])
    mixed = method._with_exemplars(method.on_after_batch_transfer(batch([[2, 0, 0, 2]], name="b"), 0))
    assert len(mixed["keys"]) == 2
    assert mixed["key_labels"][0].tolist() == [2, 0, 0, 2]
    assert mixed["sample_id"][1] in ("a0", "a1")
    assert torch.isfinite(method.loss_on(mixed))

    tensors, meta = method.state()
    again = Replay(context)
    again.load_state(tensors, meta)
    for old, new in zip(method.exemplars, again.exemplars, strict=True):
        assert torch.equal(old.image, new.image)
        assert torch.equal(old.target, new.target)
        assert (old.sample_id, old.task, old.classes) == (new.sample_id, new.task, new.classes)


def test_regions_are_made_once_for_all_methods(context: Context) -> None:
    assert context.regions is not None
    assert context.regions.partitions is not None
    proposer = context.regions.partitions.proposer
    assert isinstance(proposer, Quarters)
    assert context.regions.missing(["s0", "s1"]) == ["s0", "s1"]
    first = context.regions(batch([[0] * 4, [0] * 4]))
    second = context.regions(batch([[1] * 4, [0] * 4]))
    assert proposer.asked == 2
    assert first[0] is second[0]
    assert context.regions.missing(["s0", "s1", "s2"]) == ["s2"]


def test_true_segments_are_not_kept(context: Context) -> None:
    regions = RegionEncoder(context.encoder, context.features, None, "pooled")
    assert regions.source == "oracle"
    first = regions(batch([[0, 1, 0, 1]]))[0]
    second = regions(batch([[0, 0, 0, 1]]))[0]
    assert len(first.segments) == 2
    assert not np.array_equal(first.segments.partition, second.segments.partition)
