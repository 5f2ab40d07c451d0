"""Threads give results in order, bounded, and stop at an error."""

from __future__ import annotations

import threading
import time

import pytest

from kc.data.parallel import in_order, n_threads


def test_results_come_in_order_whoever_is_first() -> None:
    def slow_start(i: int) -> int:
        time.sleep(0.02 if i % 4 == 0 else 0.0)
        return i * i

    assert list(in_order(slow_start, 40, workers=4)) == [i * i for i in range(40)]
    assert list(in_order(slow_start, 0, workers=4)) == []


def test_no_more_than_a_few_samples_are_in_flight() -> None:
    started = 0
    lock = threading.Lock()

    def work(i: int) -> int:
        nonlocal started
        with lock:
            started += 1
        return i

    results = in_order(work, 10_000, workers=2)
    assert next(results) == 0
    assert started <= 8
    results.close()  # type: ignore[attr-defined]
    assert started < 20


def test_an_error_comes_at_its_turn() -> None:
    def work(i: int) -> int:
        if i == 3:
            raise ValueError("sample 3")
        return i

    results = in_order(work, 8, workers=3)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="sample 3"):
        next(results)


def test_threads_as_asked_or_at_most_eight() -> None:
    assert n_threads(3) == 3
    assert 1 <= n_threads(None) <= 8
