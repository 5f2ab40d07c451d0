"""FAISS and the threads of search. Import FAISS from here: commands choose its BLAS kernels."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from kc.process import faiss_kernels

with faiss_kernels():
    import faiss

__all__ = ["faiss", "parallel_for", "run_in_threads"]

_threads: ThreadPoolExecutor | None = None
_here = threading.local()
_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def _one_thread_in_child() -> None:
    # The threads of the parent do not exist in a forked child: what is given to them there waits for ever.
    global _threads
    _threads = None
    faiss.omp_set_num_threads(1)


os.register_at_fork(after_in_child=_one_thread_in_child)


def _one_of_several() -> None:
    _here.shares = True
    faiss.omp_set_num_threads(1)


def run_in_threads(call: Callable[[_Part], _Result], parts: Sequence[_Part]) -> list[_Result]:
    """`call` of each part, in a thread each, which is for FAISS, and for `parallel_for`, all that there is.

    The threads stay for the next call: starting two costs as much as the product of 100 queries with 1000 rows.
    """
    global _threads
    if len(parts) == 1 or getattr(_here, "shares", False):  # a thread that waits for others of its kind waits for ever
        return [call(part) for part in parts]
    if _threads is None:
        _threads = ThreadPoolExecutor(os.cpu_count(), "kc-memory", _one_of_several)
    futures = [_threads.submit(call, part) for part in parts]
    wait(futures)  # for all, even if one fails: they write to the same arrays
    return [future.result() for future in futures]


def parallel_for(call: Callable[[slice], None], n: int, min_part: int) -> None:
    """`call` for parts of `range(n)`, in as many threads as FAISS has: numpy copies and multiplies without Python's
    lock. Parts are not shorter than `min_part`."""
    threads = max(1, min(faiss.omp_get_max_threads(), n // min_part))
    bounds = [n * i // threads for i in range(threads + 1)]
    run_in_threads(call, [slice(*pair) for pair in itertools.pairwise(bounds)])
