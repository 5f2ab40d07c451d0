"""CoMFormer put together: the old model's masks join the labelled ones, and its classes hold the new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kc.methods.base import Context
from kc.methods.finetune.comformer import CoMFormer, ComformerOptions, pseudo_masks, query_distillation
from kc.methods.finetune.mask2former import Mask2Former
from kc.methods.finetune.mask_head import MaskHead
from kc.openvocab.mask_inference import at_size
from kc.types import HIDDEN, Task

Make = Callable[..., Context]
TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",))]


def images(left: int, right: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(left)
    labels = torch.full((2, 32, 32), right)
    labels[:, :, :16] = left
    return {
        "image": torch.rand(2, 3, 32, 32, generator=generator),
        "sample_id": ["a", "b"],
        "semantic": labels,
        "original_size": [(32, 32)] * 2,
    }


def test_the_terms_add_up(toy_context: Make, learn: Callable[..., None]) -> None:
    context = toy_context("semantic", train="full", options=ComformerOptions(kd=4.0))
    method = CoMFormer(context)
    learn(method, TASKS[0], [images(1, 2)], lr=1e-3)
    method.start_task(TASKS[1])
    method.eval()
    assert method.previous is not None
    batch = images(3, HIDDEN)
    batch["semantic"][:, 2:] = HIDDEN
    old = method.previous.decoder(method.features(batch))
    with torch.no_grad():  # an old model that sees class 1 in the query with the largest mask, and nothing else
        states = old.states[-1][0]
        chosen = states[(old.masks[-1][0] > 0).sum((1, 2)).argmax()]
        first, second = (states @ chosen).topk(2).values.tolist()
        head = method.previous.classifier.steps[1]
        head.weight.zero_()
        head.bias.fill_(-50)
        head.weight[0] = chosen * 60 / (first - second)
        head.bias[0] = -30 * (first + second) / (first - second)
    old_classes = method.previous.classifier(old.states[-1])
    new = method.head.decoder(method.features(batch))
    classes = [method.classifier(s) for s in new.states]
    sets = method.head.mask_sets(batch)
    taken = [masks.bool().any(0) for masks, _ in sets]
    more = [pseudo_masks(old_classes[i], at_size(old.masks[-1][i], (32, 32)), taken[i]) for i in range(2)]
    assert more[0][1].tolist() == [1]
    joined = [(torch.cat([a, c]), torch.cat([b, d])) for (a, b), (c, d) in zip(sets, more, strict=True)]
    assert method.criterion is not None
    torch.manual_seed(0)
    expected = method.criterion(classes, new, joined) + 4 * query_distillation(classes[-1], old_classes)
    torch.manual_seed(0)
    assert method.loss_on(batch).item() == pytest.approx(expected.item(), rel=1e-5)
    torch.manual_seed(0)
    assert Mask2Former.loss_on(method, batch).item() != pytest.approx(expected.item(), rel=1e-2)


def test_the_first_task_is_that_of_mask2former(toy_context: Make) -> None:
    losses = []
    for kind in (Mask2Former, CoMFormer):
        context = toy_context("semantic")
        torch.manual_seed(1)
        method = kind(context)
        method.start_task(TASKS[0])
        losses.append(method.eval().loss_on(images(1, 2)).item())
    assert losses[0] == losses[1]


def test_background_is_left_to_the_old_model_where_hidden_labels_become_it(
    toy_context: Make, learn: Callable[..., None]
) -> None:
    """With class 0 as background a later task's map is full; only its own class may count as labelled."""
    method = CoMFormer(toy_context("semantic", background=True))
    first = Task(0, (0, 1, 2), (0, 1, 2), ("0", "1", "2"))
    learn(method, first, [images(1, 0)], lr=1e-3)
    method.start_task(Task(1, (3,), (0, 1, 2, 3), ("3",)))
    seen: list[Any] = []
    method.head.mask_sets = lambda batch: seen.extend(MaskHead.mask_sets(method.head, batch)) or list(seen)  # type: ignore[func-returns-value, method-assign]
    assert torch.isfinite(method.loss_on(images(3, 0)))
    assert [columns.tolist() for _, columns in seen] == [method.classifier.columns([3])] * 2
