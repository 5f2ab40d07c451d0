"""A frozen encoder whose features are cached needs no images to train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kc.errors import RunError
from kc.methods.base import Context
from kc.methods.finetune.er import Er
from kc.methods.finetune.lora import Lora
from kc.methods.finetune.naive import Finetune
from kc.methods.finetune.replay import Replay
from kc.types import Task

TASK = Task(0, (1, 2), (1, 2), ("1", "2"))
Make = Callable[..., Context]
Images = Callable[..., dict[str, Any]]


def without_images(batch: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in batch.items() if k != "image"} | {"index": torch.arange(len(batch["sample_id"]))}


def test_the_loss_is_the_same_to_the_bit(toy_context: Make, images: Images) -> None:
    context, batch = replace(toy_context(), input_size=(16, 16)), images([1, 2, 1])
    method = Finetune(context)
    method.start_task(TASK)
    assert not method.needs_images
    expected = method.loss_on(batch)
    assert torch.equal(method.loss_on(without_images(batch)), expected)


def test_an_image_that_was_never_encoded_is_one_clear_error(toy_context: Make, images: Images) -> None:
    method = Finetune(replace(toy_context(), input_size=(16, 16)))
    method.start_task(TASK)
    with pytest.raises(RunError, match="gone or damaged"):
        method.loss_on(without_images(images([1, 2])))


def test_who_needs_images(toy_context: Make) -> None:
    sure = replace(toy_context(), input_size=(16, 16))
    assert Finetune(toy_context()).needs_images  # nobody said that the cache is complete
    assert Replay(sure).needs_images
    assert Er(sure).needs_images
    assert Lora(sure).needs_images
    assert Finetune(replace(toy_context(train="full"), input_size=(16, 16))).needs_images


def test_a_batch_moves_by_its_tensors(toy_context: Make, images: Images) -> None:
    method, batch = Finetune(toy_context()), images([1, 2])
    moved = method.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["image"].device.type == moved["label"].device.type == "meta"
    assert moved["sample_id"] is batch["sample_id"]
