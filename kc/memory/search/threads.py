"""FAISS, when it uses BLAS, and the threads of search. Import FAISS from here: commands choose its BLAS kernels."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from kc.process import faiss_kernels

with faiss_kernels():
    import faiss

__all__ = ["blas_from", "faiss", "parallel_for", "run_in_threads"]

DATABASE_ROWS = 2048
QUERY_ROWS = 1024
_blas_lock = threading.RLock()
_threads: ThreadPoolExecutor | None = None
_here = threading.local()
_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


@contextlib.contextmanager
def blas_from(n_values: int) -> Iterator[None]:
    """FAISS takes BLAS once n_queries * dim reaches `n_values` (its own threshold makes 100 masks 9 times slower), for
    DATABASE_ROWS rows at a time (its own 1024 cost a twentieth of the time) and QUERY_ROWS queries: it takes memory for
    the products of both, in every thread, however few there are."""
    names = [f"distance_compute_blas_{name}" for name in ("threshold", "database_bs", "query_bs")]
    with _blas_lock:
        before = [getattr(faiss.cvar, name) for name in names]
        try:
            for name, value in zip(names, (n_values, DATABASE_ROWS, QUERY_ROWS), strict=True):
                setattr(faiss.cvar, name, value)
            yield
        finally:
            for name, value in zip(names, before, strict=True):
                setattr(faiss.cvar, name, value)


def _one_thread_in_child() -> None:
    # The threads of the parent do not exist in a forked child: what is given to them there waits for ever.
    global _blas_lock, _threads
    _blas_lock, _threads = threading.RLock(), None
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
