"""A pytest plugin that rounds like another processor: `KC_ROUNDING=1 python -m pytest -p tests.rounding tests/methods`.

Kernels of another processor, thread count or release add up in another order: their results differ in the last bits.
Here the results of matrix products, convolutions, norms and sums, also in the backward pass, move by at most two bits,
up or down by a hash of their own bits and of the number in KC_ROUNDING: equal numbers stay equal, short ones such as 0
and 4.5 stay what they are, and a run can be repeated. Only torch in this process is reached, not numpy, FAISS or
worker processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

WORDS = ("mm", "conv", "norm", "sum", "mean", "attention", "softmax", "linear", "upsample", "grid_sampler", "addcdiv")


class Rounding(TorchDispatchMode):
    """Moves what the named operators return by -2 .. 2 in units of the last place."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.named: dict[Any, bool] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func not in self.named:
            name = func.name().split("::")[-1]
            self.named[func] = any(word in name for word in WORDS) and not func._schema.is_mutable
        if self.named[func]:
            for part in found if isinstance(found, (tuple, list)) else (found,):
                if isinstance(part, torch.Tensor) and part.dtype == torch.float32 and part.device.type == "cpu":
                    self.move(part)
        return found

    def move(self, values: torch.Tensor) -> None:
        """In place."""
        flat = values.detach()
        if not flat.numel() or not flat.is_contiguous():
            return
        bits = flat.view(torch.int32)
        draw = ((bits.long() * 2654435761 + self.seed * 40503) >> 13) % 5 - 2
        bits.copy_(torch.where((flat.abs() > 1e-30) & (bits & 0x3FF != 0), bits + draw.int(), bits))


@pytest.fixture(autouse=True)
def rounding() -> Iterator[None]:
    with Rounding(int(os.environ.get("KC_ROUNDING", "1"))):
        yield
