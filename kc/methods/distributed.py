"""Several processes that train together: what is my part, and what did the others see?"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from kc.memory.store.distributed import process_rank as process_rank
from kc.types import Batch

Rows = TypeVar("Rows", bound=Any)


def world() -> int:
    """Number of processes that train together now."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def mean_of(count: Tensor) -> Tensor:
    """Mean of a count over the processes; the count itself where one is alone, or nothing is learned."""
    n = world()
    if n == 1 or not torch.is_grad_enabled():
        return count
    total = count.clone()
    distributed.all_reduce(total)
    return total / n


def weight_of(counted: Tensor) -> float:
    """Factor by which a mean over what is `counted` (a mask, or weights) is multiplied, so that the mean over processes
    is one over all.
    """
    if world() == 1:
        return 1.0
    count = counted.sum()
    mean = float(mean_of(count))
    return float(count) / mean if mean else 1.0


def local_shard(items: Rows) -> Rows:
    """This process's part of rows (a list or a tensor) that every process has alike: of P processes every P-th."""
    return cast(Rows, items[process_rank() :: world()]) if world() > 1 else items


def all_gather_batch(batch: Batch) -> Batch:
    """The batch that one process would have seen: the rows of all processes, in turn; the batch itself if alone."""
    n = world()
    if n == 1:
        return batch
    parts: list[Any] = [None] * n
    distributed.all_gather_object(parts, {k: v.cpu() if isinstance(v, Tensor) else v for k, v in batch.items()})
    found: dict[str, Any] = {}
    for key, own in batch.items():
        rows = [row for turn in zip(*(list(part[key]) for part in parts), strict=True) for row in turn]
        found[key] = torch.stack(rows).to(own.device) if isinstance(own, Tensor) else rows
    return found
