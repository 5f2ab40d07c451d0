"""Ids above 255, and 254 and 255 among them, through mask heads, fused and zero-shot methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kc.methods.base import Context
from kc.methods.finetune.mask2former import Mask2Former, Mask2FormerReplay
from kc.methods.regions import RegionEncoder
from kc.methods.retrieval.fused import FusedMemory
from kc.methods.retrieval.knn_clip import KnnClip
from kc.methods.retrieval.ret_clip import RetClip
from kc.methods.retrieval.zeroshot import ZeroShot
from kc.openvocab.base import Names
from kc.types import HIDDEN, VOID, ClassInfo, Features, Task

Make = Callable[..., Context]
ALL = tuple(range(1203))
TASKS = [Task(0, ALL[:600], ALL[:600], ()), Task(1, ALL[600:], ALL, ())]
COLORS = {254: (0.9, 0.1, 0.1), 255: (0.1, 0.9, 0.1), 1202: (0.1, 0.1, 0.9), HIDDEN: (0.5, 0.5, 0.5)}


def wide(context: Context, **more: Any) -> Context:
    """The context of a benchmark of 1,203 classes; 255 and 1202 are things."""
    classes = {c: ClassInfo(c, str(c), is_thing=c in (255, 1202)) for c in ALL}
    return dataclasses.replace(context, classes=classes, **more)


def halves(left: int, right: int, size: int = 32) -> dict[str, Any]:
    """Two images whose halves are of two classes, the second mirrored, with a void corner."""
    labels = torch.full((2, size, size), right)
    labels[0, :, : size // 2] = left
    labels[1, :, size // 2 :] = left
    image = torch.zeros(2, 3, size, size)
    for c in (left, right):
        image.movedim(1, -1)[labels == c] = torch.tensor(COLORS[c])
    labels[:, :3, :3] = VOID
    raw = [(255 * x).byte().permute(1, 2, 0).numpy() for x in image]
    return {
        "image": image,
        "raw": raw,
        "sample_id": [f"{left}-{right}-{i}" for i in range(2)],
        "semantic": labels,
        "labels_raw": list(labels.numpy()),
        "original_size": [(size, size)] * 2,
    }


def test_a_mask_head_learns_them(toy_context: Make) -> None:
    torch.manual_seed(0)
    method = Mask2Former(wide(toy_context("semantic", train="full")))
    method.start_task(Task(0, (254, 255, 1202), (254, 255, 1202), ()))
    method.train()
    batches = [halves(254, 1202), halves(255, HIDDEN)]
    optimizer = torch.optim.AdamW(method.trained().values(), lr=3e-3)
    for step in range(120):
        optimizer.zero_grad()
        method.loss_on(batches[step % 2]).backward()
        optimizer.step()
    method.eval()
    for batch in batches:
        found = method.predict(batch, (254, 255, 1202)).semantic
        for said, asked in zip(found, batch["semantic"].numpy(), strict=True):
            assert (said == asked)[asked >= 0].mean() > 0.9


def test_exemplars_of_masks_keep_them(toy_context: Make, learn: Callable[..., None]) -> None:
    method = Mask2FormerReplay(wide(toy_context("semantic", exemplars=1203)))
    learn(method, Task(0, (255, 1202), (255, 1202), ()), [halves(255, 1202)], lr=1e-3)
    for exemplar in method.exemplars:
        assert set(exemplar.target.unique().tolist()) == {VOID, 255, 1202}
    again = Mask2FormerReplay(wide(toy_context("semantic", exemplars=1203)))
    again.load_state(*method.state())
    assert all(torch.equal(a.target, b.target) for a, b in zip(method.exemplars, again.exemplars, strict=True))


class Colours:
    """A base of features that knows every name; images or regions that are red are 254, green ones 255, others 1202."""

    key = "colours"

    def __init__(self, context: Context) -> None:
        self.context = context
        plain = torch.tensor([COLORS[c] for c in (254, 255, 1202)])[:, :, None, None].expand(3, 3, 16, 16)
        self.known = torch.nn.functional.normalize(context.encode({"image": plain, "sample_id": list("abc")}).pooled)

    def scores_from(self, pooled: Tensor, names: Names) -> Tensor:
        return self.scores_from_posterior(pooled, names)

    def scores_from_posterior(self, posterior: Tensor, names: Names) -> Tensor:
        nearest = (torch.nn.functional.normalize(posterior.float()) @ self.known.T).argmax(1)
        scores = torch.full((len(posterior), len(names)), 1e-4)
        for column, name in enumerate(names):
            if name[0] in ("254", "255", "1202"):
                scores[nearest == ("254", "255", "1202").index(name[0]), column] = 1.0
        return scores / scores.sum(1, keepdim=True)

    def posterior_map(self, features: Features) -> Tensor:
        return features.levels[-1]

    def codes_from(self, pooled: Tensor) -> Tensor:
        return pooled.half()

    def codes_from_posterior(self, posterior: Tensor) -> Tensor:
        return posterior.half()

    def scores_from_codes(self, codes: Tensor, names: Names) -> Tensor:
        return self.scores_from_posterior(codes, names)


def test_a_base_alone_names_them(toy_context: Make) -> None:
    context = wide(toy_context())
    method = ZeroShot(dataclasses.replace(context, base=Colours(context)))
    image = torch.tensor([COLORS[c] for c in (255, 1202, 254)])[:, :, None, None].expand(3, 3, 16, 16)
    scores = method.predict({"image": image, "sample_id": list("xyz")}, ALL).scores
    assert scores is not None
    assert scores.argmax(1).tolist() == [255, 1202, 254]


@pytest.mark.parametrize("kind", [KnnClip, RetClip])
def test_base_and_memory_name_them(kind: type[FusedMemory], toy_context: Make) -> None:
    context = wide(toy_context("panoptic", options=kind.spec.options(k=3)))
    context = dataclasses.replace(context, regions=RegionEncoder(context.encoder, context.features, None, "pooled"))
    method = kind(dataclasses.replace(context, base=Colours(context)))
    for task, shown in zip(TASKS, ([halves(254, 255)], [halves(1202, 1202)]), strict=True):
        method.start_task(task)
        for batch in shown:
            method.observe(batch)
            method.store(task.index, 1)
        method.commit(task.index, 1)
    assert method.memory is not None
    assert sorted(set(method.memory.labels().class_id.tolist())) == [254, 255, 1202]
    for batch in (halves(255, 1202), halves(254, 255)):
        found = method.predict(batch, ALL)
        for said, panoptic, asked in zip(found.semantic, found.panoptic, batch["semantic"].numpy(), strict=True):
            assert (said == asked)[asked >= 0].all()
            assert np.array_equal(panoptic[..., 0], said)
            assert (panoptic[..., 1][said == 254] == 0).all()
            assert (panoptic[..., 1][(said == 255) | (said == 1202)] > 0).all()
