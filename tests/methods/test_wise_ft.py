"""WiSE-FT answers with a mixture and goes on training from the weights themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kc.methods.base import Context
from kc.methods.finetune.naive import Finetune
from kc.methods.finetune.wise_ft import WiseFt, WiseFtOptions, mixed
from kc.types import Task

TASKS = [Task(0, (1, 2), (1, 2), ("1", "2")), Task(1, (3,), (1, 2, 3), ("3",))]
Make = Callable[..., Context]
Images = Callable[..., dict[str, Any]]
Learn = Callable[..., None]


def test_mixture_by_hand() -> None:
    found = mixed({"a": torch.tensor([0.0, 8.0]), "gone": torch.zeros(1)}, {"a": torch.tensor([4.0, 0.0])}, 0.25)
    assert {k: v.tolist() for k, v in found.items()} == {"a": [1.0, 6.0]}


def test_training_is_fine_tuning_and_answers_are_mixed(toy_context: Make, images: Images, learn: Learn) -> None:
    batches = [[images([1, 2, 1, 2], seed=1)], [images([3, 3, 3], seed=2)]]
    methods = {}
    for cls in (Finetune, WiseFt):
        options = WiseFtOptions(alpha=0.25) if cls is WiseFt else None
        method = cls(toy_context(train="full", options=options))
        torch.manual_seed(0)
        for task, data in zip(TASKS, batches, strict=True):
            learn(method, task, data, epochs=2)
        methods[cls.name] = method
    wise = methods["wise-ft"]
    assert isinstance(wise, WiseFt)
    for name, value in methods["finetune"].state_dict().items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            continue
        assert torch.equal(wise.now[name], value), name
        torch.testing.assert_close(wise.state_dict()[name], 0.75 * wise.first[name] + 0.25 * value)
    encoder = wise.context.encoder.state_dict()
    assert torch.equal(wise.first["network.stem.weight"], encoder["stem.weight"])
    assert not torch.equal(wise.now["network.stem.weight"], encoder["stem.weight"])


def test_state_comes_back_and_training_goes_on(toy_context: Make, images: Images, learn: Learn) -> None:
    method = WiseFt(toy_context())
    learn(method, TASKS[0], [images([1, 2, 1], seed=1)])
    other = WiseFt(toy_context())
    other.load_state(*method.state())
    for m in (method, other):
        torch.manual_seed(1)
        learn(m, TASKS[1], [images([3, 3], seed=2)])
    pairs = zip(method.state()[0].items(), other.state()[0].items(), strict=True)
    assert all(ka == kb and torch.equal(a, b) for (ka, a), (kb, b) in pairs)
