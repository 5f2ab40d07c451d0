"""Contestants that take turns step by step, so that each meets the same weather on a machine that others use too."""

from __future__ import annotations

import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

WARMING = 3
"""Steps of each contestant that do not count."""
Contestant = Callable[[Callable[[], None]], object]


class Turns:
    """One process a contestant, forked from this one, of which one runs at a time.

    In one process they would share a heap: where one keeps its blocks decides what freeing costs another.

    Args:
        contestants: name -> a loop that calls `step()` after each of its training steps, for ever or until it raises
            `Over`.
        steps: how many are timed.
        clock: seconds, read in the contestant's process.
    """

    def __init__(
        self, contestants: Mapping[str, Contestant], steps: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.contestants, self.steps, self.clock = dict(contestants), steps, clock

    def run(self) -> dict[str, list[float]]:
        """Seconds of each timed step of each contestant, in the order of the rounds; RuntimeError where one failed."""
        fork = multiprocessing.get_context("fork")
        ends: dict[str, Connection] = {}
        processes = []
        for name, loop in self.contestants.items():
            ends[name], theirs = fork.Pipe()
            processes.append(fork.Process(target=self._one, args=(loop, theirs)))
            processes[-1].start()
            theirs.close()
        try:
            seconds: dict[str, list[float]] = {name: [] for name in ends}
            for _ in range(WARMING + self.steps):
                for name, end in ends.items():
                    end.send(True)
                    said = end.recv()
                    if isinstance(said, str):
                        raise RuntimeError(f"{name}: {said}")
                    seconds[name].append(said)
            for end in ends.values():
                end.send(False)
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            for process in processes:
                process.join()
        return {name: values[WARMING:] for name, values in seconds.items()}

    def _one(self, loop: Contestant, end: Connection) -> None:
        """In the process of a contestant: begin when told to, and say after each step what it took."""
        end.recv()
        began = self.clock()

        def step() -> None:
            nonlocal began
            end.send(self.clock() - began)
            if not end.recv():
                raise Over
            began = self.clock()

        try:
            loop(step)
        except Over:
            pass
        except BaseException:  # told to the one who waits for this turn
            end.send(traceback.format_exc())


class Over(Exception):
    """A contestant has made all its steps."""


def ratio(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile over the rounds of the seconds of `one` by those of `other` in the same
    round.
    """
    low, middle, high = statistics.quantiles([a / b for a, b in zip(one, other, strict=True)], n=4, method="inclusive")
    return low, middle, high
