"""Several processes that train together: what is my part, and what did the others see?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from kc.memory.store.distributed import process_rank as process_rank
from kc.types import REPEATED, Batch

Rows = TypeVar("Rows", bound=Any)
_idle = False


def world() -> int:
    """Number of processes that train together now."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


@contextmanager
def counting(batch: Batch) -> Iterator[None]:
    """Within it, what is counted in a batch that only repeats images of other processes counts nothing."""
    global _idle
    _idle = REPEATED in batch
    try:
        yield
    finally:
        _idle = False


def mean_of(count: Tensor) -> Tensor:
    """Mean of a count over the processes; the count itself where one is alone, or nothing is learned."""
    n = world()
    if n == 1 or not torch.is_grad_enabled():
        return count
    total = torch.zeros_like(count) if _idle else count.clone()
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
    return (0.0 if _idle else float(count)) / mean if mean else 1.0


def weight_of_rows(rows: Tensor) -> float:
    """The same factor of a mean over the rows of a tensor."""
    return 1.0 if world() == 1 else weight_of(rows.new_tensor(len(rows), dtype=torch.float32))


def local_shard(items: Rows) -> Rows:
    """This process's part of rows (a list or a tensor) that every process has alike: of P processes every P-th."""
    return cast(Rows, items[process_rank() :: world()]) if world() > 1 else items


def share_of_draw(draw: Callable[[int], list[Rows]], batch: Batch) -> list[Rows]:
    """This process's part of as many draws as the batches of all processes have images; at least one."""
    n = torch.tensor(0 if REPEATED in batch else len(batch["sample_id"]))
    if world() > 1:
        n = n.to(batch["index"].device)
        distributed.all_reduce(n)
    drawn = draw(int(n))
    return local_shard(drawn) or drawn[:1]


def all_gather_batch(batch: Batch) -> Batch:
    """The batch that one process would have seen: the rows of all processes, in turn; the batch itself if alone."""
    n = world()
    if n == 1:
        return batch
    parts: list[Any] = [None] * n
    distributed.all_gather_object(parts, {k: v.cpu() if isinstance(v, Tensor) else v for k, v in batch.items()})
    parts = [part for part in parts if REPEATED not in part]
    found: dict[str, Any] = {}
    for key in parts[0]:
        turns = zip_longest(*(list(part[key]) for part in parts), fillvalue=found)
        rows = [row for turn in turns for row in turn if row is not found]
        found[key] = torch.stack(rows).to(batch[key].device) if isinstance(batch[key], Tensor) else rows
    return found
