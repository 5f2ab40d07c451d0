"""Work over the samples of a reader on several threads, in order, with a bounded number of samples in flight."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")
_AHEAD = 4
"""Samples in flight a thread: enough that none waits, few enough that a million images do not become a million jobs."""


def n_threads(workers: int | None) -> int:
    """As given, else one a core, at most 8 (decoding images frees the interpreter lock, the rest does not)."""
    return workers if workers is not None else min(8, os.cpu_count() or 1)


def in_order(work: Callable[[int], _Result], n: int, workers: int | None = None) -> Iterator[_Result]:
    """`work(0)`, ..., `work(n - 1)`, computed by `workers` threads. An error of `work` is raised at its turn."""
    threads = n_threads(workers)
    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for index in range(n):
                pending.append(pool.submit(work, index))
                if len(pending) >= _AHEAD * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:  # the caller stopped, or a sample failed: do not finish the others first
                future.cancel()
