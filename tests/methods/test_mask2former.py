"""Fine-tuning a mask classifier: what is frozen stays, the head grows, and it learns what it is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from kc.encoders.cache import FeatureCache
from kc.encoders.lite import Lite0
from kc.errors import KcError
from kc.methods.base import Context
from kc.methods.finetune.comformer import CoMFormer
from kc.methods.finetune.mask2former import Mask2Former, Mask2FormerJoint, Mask2FormerReplay
from kc.methods.finetune.mask_head import MaskHead
from kc.methods.finetune.mask_options import MaskOptions
from kc.methods.training_options import Training
from kc.types import HIDDEN, VOID, ClassInfo, Task

Make = Callable[..., Context]
TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",))]
COLORS = {1: (0.9, 0.1, 0.1), 2: (0.1, 0.9, 0.1), 3: (0.1, 0.1, 0.9)}


def halves(left: int, right: int) -> dict[str, Any]:
    """Two images of 32 x 32 whose halves are of two classes, the second mirrored; class 0 is hidden."""
    labels = torch.full((2, 32, 32), right)
    labels[0, :, :16] = left
    labels[1, :, 16:] = left
    palette = torch.tensor([COLORS.get(c, (0.5, 0.5, 0.5)) for c in range(4)])
    return {
        "image": palette[labels].movedim(-1, 1),
        "sample_id": ["a", "b"],
        "semantic": torch.where(labels == 0, HIDDEN, labels),
        "original_size": [(32, 32)] * 2,
    }


@pytest.mark.parametrize("train", ["head", "full"])
def test_two_tasks(train: str, toy_context: Make, learn: Callable[..., None]) -> None:
    method = Mask2Former(toy_context("semantic", train=train))
    learn(method, TASKS[0], [halves(1, 2)], lr=1e-3)
    assert method.classifier.class_ids[1:] == [1, 2]
    before = {k: v.clone() for k, v in method.state()[0].items()}
    learn(method, TASKS[1], [halves(3, 0)], lr=1e-3)
    backbone = "head.decoder.model.pixel_level_module.encoder."
    frozen = [k for k in before if k.startswith(backbone)]
    assert all(torch.equal(method.state()[0][k], before[k]) for k in frozen) == (train == "head")
    again = Mask2Former(toy_context("semantic", train=train))
    again.load_state(*method.state())
    images = halves(1, 3)
    pair = [m.eval().predict(images, (1, 2, 3)).semantic for m in (method, again)]
    assert all((a == b).all() for a, b in zip(*pair, strict=True))
    assert set(pair[0][0].ravel().tolist()) <= {1, 2, 3}
    assert method.stored_bytes() == again.stored_bytes() > 370_000 * 4


def test_it_learns_what_it_is_shown(toy_context: Make) -> None:
    torch.manual_seed(0)
    method = Mask2Former(toy_context("semantic", train="full"))
    method.start_task(TASKS[0])
    method.train()
    images = halves(1, 2)
    optimizer = torch.optim.AdamW(method.trained().values(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        method.loss_on(images).backward()
        optimizer.step()
    method.eval()
    found = method.predict(images, (1, 2)).semantic
    right = [(torch.from_numpy(m) == t).float().mean().item() for m, t in zip(found, images["semantic"], strict=True)]
    assert min(right) > 0.9


def test_groups_have_their_rates(toy_context: Make) -> None:
    method = Mask2Former(toy_context("semantic", train="full", encoder_lr=0.1))
    head, backbone = method.parameter_groups(0.01)
    assert (head["lr"], backbone["lr"]) == (0.01, 0.001)
    assert len(head["params"]) + len(backbone["params"]) == len(method.trained())
    assert {id(p) for p in backbone["params"]} == {id(p) for p in method.head.decoder.backbone.parameters()}


def test_half_of_a_replayed_batch_is_old(toy_context: Make, learn: Callable[..., None]) -> None:
    method = Mask2FormerReplay(toy_context("semantic", exemplars=6))
    learn(method, TASKS[0], [halves(1, 2)], lr=1e-3)
    method.start_task(TASKS[1])
    seen: list[int] = []
    method.head.mask_sets = lambda batch: seen.append(len(batch["image"])) or MaskHead.mask_sets(method.head, batch)  # type: ignore[func-returns-value, method-assign]
    assert torch.isfinite(method.training_step(halves(3, 0), 0))
    assert seen == [4]


def instances(class_id: int, crowd: bool) -> dict[str, Any]:
    """Two images with two instances of a class side by side, numbers 1 and 254; the second may be a crowd."""
    panoptic = torch.zeros(2, 32, 32, 2, dtype=torch.int32)
    panoptic[..., 0] = VOID
    panoptic[:, :8, :16] = torch.tensor([class_id, 1], dtype=torch.int32)
    panoptic[:, :8, 16:] = torch.tensor([class_id, 254], dtype=torch.int32)
    return {
        "image": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(class_id)),
        "sample_id": [f"{class_id}a", f"{class_id}b"],
        "semantic": panoptic[..., 0].long(),
        "panoptic": panoptic,
        "crowd": [frozenset({254}) if crowd else frozenset()] * 2,
        "original_size": [(32, 32)] * 2,
    }


@pytest.mark.parametrize("crowd", [False, True])
def test_panoptic_exemplars_keep_instances_and_no_crowds(
    crowd: bool, toy_context: Make, learn: Callable[..., None]
) -> None:
    method = Mask2FormerReplay(toy_context("panoptic", exemplars=6))
    learn(method, TASKS[0], [instances(1, crowd)], lr=1e-3)
    assert [e.classes for e in method.exemplars] == [(1,), (1,)]
    assert [e.target.shape for e in method.exemplars] == [(32, 32, 2)] * 2
    again = Mask2FormerReplay(toy_context("panoptic", exemplars=6))
    again.load_state(*method.state())
    again.start_task(TASKS[1])
    sets: list[Any] = []
    again.head.mask_sets = lambda batch: sets.extend(MaskHead.mask_sets(again.head, batch)) or sets  # type: ignore[func-returns-value, method-assign]
    assert torch.isfinite(again.training_step(instances(3, crowd), 0))
    per_image = 1 if crowd else 2
    column = {c: again.classifier.columns([c])[0] for c in (1, 3)}
    assert [columns.tolist() for _, columns in sets] == [[column[c]] * per_image for c in (3, 3, 1, 1)]
    assert [masks.sum((1, 2)).tolist() for masks, _ in sets] == [[8 * 16] * per_image] * 4


def test_it_reads_images_where_features_of_the_shared_encoder_are_cached(toy_context: Make) -> None:
    context = toy_context("semantic", train="head")
    context.input_size = (32, 32)
    assert Mask2Former(context).needs_images


@pytest.mark.parametrize("cls", [CoMFormer, Mask2FormerJoint, Mask2FormerReplay])
def test_the_first_task_is_that_of_fine_tuning(cls: type[Mask2Former], toy_context: Make) -> None:
    losses = []
    for kind in (Mask2Former, cls):
        method = kind(toy_context("semantic", exemplars=6, train="full"))
        torch.manual_seed(0)
        method.start_task(TASKS[0])
        method.on_train_start()
        torch.manual_seed(1)
        losses.append(method.training_step(halves(1, 2), 0))
    assert torch.equal(*losses)


def test_a_frozen_encoder_is_asked_once_for_an_image(tmp_path: Path) -> None:
    """Its levels come from the cache afterwards, the trained one's never; both see the same images."""
    encoder = Lite0.load()
    classes = {c: ClassInfo(c, str(c)) for c in range(4)}
    images = halves(1, 2)
    asked: dict[str, list[int]] = {"head": [], "full": []}
    for train, calls in asked.items():
        config = Training(train=train)
        features = FeatureCache(tmp_path / "features", encoder)
        method = Mask2Former(
            Context("semantic", classes, encoder, features, config, 0, tmp_path, options=MaskOptions("encoder"))
        )
        torch.manual_seed(0)
        method.start_task(TASKS[0])
        method.on_train_start()
        pyramid = cast(Any, method.head.decoder.backbone).pyramid
        pyramid.register_forward_hook(lambda *_, calls=calls, pyramid=pyramid: calls.append(pyramid.training))
        for _ in range(3):
            assert torch.isfinite(method.loss_on(images))
    assert asked == {"head": [False] * 2, "full": [True] * 3}  # a CPU encodes images one by one


def test_what_it_cannot_do_is_refused(toy_context: Make) -> None:
    with pytest.raises(KcError, match="classification"):
        Mask2Former(toy_context("classification"))


def test_panoptic_answers_have_scored_instances_and_limits_as_given(toy_context: Make) -> None:
    """No query of an untrained network passes 0.8; without limits each that sees a class is a segment."""
    found = {}
    for score in (None, 0.0):
        method = Mask2Former(toy_context("panoptic", options=MaskOptions(score=score, overlap=score)))
        torch.manual_seed(0)
        method.start_task(TASKS[0])
        prediction = method.eval().predict(instances(1, False), (1, 2))
        found[score] = {int(c) for c in prediction.panoptic[0][..., 0].ravel()}
        assert [i.masks.shape[1:] for i in prediction.instances] == [(32, 32)] * 2
        assert len(prediction.instances[0].scores) == 0  # neither class is a thing
    assert found[None] == {VOID}
    assert found[0.0] != {VOID}
    assert Mask2Former(toy_context("panoptic")).limits() == (0.8, 0.8)
