"""Contestants that take turns step by step, so that each meets the same weather on a machine that others use too."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping

WARMING = 3
"""Steps of each contestant that do not count."""


class Turns:
    """One thread a contestant, of which one runs at a time: who ends a step hands over to the next.

    Args:
        contestants: name -> a loop that calls `step()` after each of its training steps, for ever or until it raises
            `Over`.
        steps: how many are timed.
        clock: seconds, read in the contestant's thread.
    """

    def __init__(
        self,
        contestants: Mapping[str, Callable[[Callable[[], None]], object]],
        steps: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.contestants, self.steps, self.clock = dict(contestants), steps, clock
        self.seconds: dict[str, list[float]] = {name: [] for name in contestants}
        self._next = {name: threading.Semaphore(0) for name in contestants}
        self._failed: BaseException | None = None

    def run(self) -> dict[str, list[float]]:
        """Seconds of each timed step of each contestant, in the order of the rounds."""
        names = list(self.contestants)
        threads = [threading.Thread(target=self._one, args=(names, i), daemon=True) for i in range(len(names))]
        for thread in threads:
            thread.start()
        self._next[names[0]].release()
        for thread in threads:
            thread.join()
        if self._failed is not None:
            raise self._failed
        return {name: values[WARMING : WARMING + self.steps] for name, values in self.seconds.items()}

    def _one(self, names: list[str], place: int) -> None:
        name, following = names[place], names[(place + 1) % len(names)]
        own = self._next[name]
        own.acquire()
        began = self.clock()

        def step() -> None:
            nonlocal began
            self.seconds[name].append(self.clock() - began)
            if self._failed is not None or len(self.seconds[name]) == self.steps + WARMING:
                raise Over
            self._next[following].release()
            own.acquire()
            if self._failed is not None:
                raise Over
            began = self.clock()

        try:
            if self._failed is None:
                self.contestants[name](step)
        except Over:
            pass
        except BaseException as error:  # told to all, raised by `run`
            self._failed = error
        self._next[following].release()


class Over(Exception):
    """A contestant has made all its steps."""


def ratio(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile over the rounds of the seconds of `one` by those of `other` in the same
    round.
    """
    low, middle, high = statistics.quantiles([a / b for a, b in zip(one, other, strict=True)], n=4, method="inclusive")
    return low, middle, high
