"""Threads that share out work."""

from __future__ import annotations

import pytest

from kc.memory.search.threads import run_in_threads


def test_threads_that_share_out_again_do_not_wait_for_each_other() -> None:
    """More parts than there are cores, each of which has parts itself: in order, and the error of one is raised."""

    def whole(n: int) -> int:
        return sum(run_in_threads(lambda i: i * n, range(4)))

    assert run_in_threads(whole, range(40)) == [6 * n for n in range(40)]
    assert run_in_threads(whole, []) == []
    with pytest.raises(ZeroDivisionError):
        run_in_threads(lambda n: 1 // n, [2, 1, 0])
