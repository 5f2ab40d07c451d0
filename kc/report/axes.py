"""The logarithmic axis of a cost, the same on the page and in figures for a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kc.report import words

_GAP = 0.5  # steps between 0 and the first mark: log 0 has no place, but a method that keeps nothing needs one

COSTS = (("seconds", "seconds of learning", "s"), ("stored_bytes", "stored after the last task", "B"))
"""Costs that scores are drawn against: key, title, unit."""


@dataclass(frozen=True)
class LogAxis:
    """From mark `low` to mark `high`, each `step` times the one before; with `zero`, 0 stands left of `low`."""

    low: float
    high: float
    step: float
    zero: bool
    unit: str

    @classmethod
    def over(cls, values: Sequence[float], unit: str) -> LogAxis:
        """The axis that holds all `values` (at least 0, NaN left out); `unit` "s" or "B" (marks 32 times apart)."""
        step = 32.0 if unit == "B" else 10.0
        known = [v for v in values if v > 0] or [1.0]
        # Rounded, because log(1000, 10) is a little below 3.
        first = math.floor(round(math.log(min(known), step), 9))
        last = math.ceil(round(math.log(max(known), step), 9))
        return cls(step**first, step ** max(last, first + 1), step, any(v == 0 for v in values), unit)

    def at(self, value: float) -> float:
        """Place of `value` in [0, 1], from left to right."""
        gap = _GAP if self.zero else 0.0
        steps = math.log(self.high / self.low, self.step)
        return 0.0 if value <= 0 else (gap + math.log(value / self.low, self.step)) / (gap + steps)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place and text of each mark, at most seven."""
        steps = round(math.log(self.high / self.low, self.step))
        values = [self.low * self.step**i for i in range(0, steps + 1, math.ceil(steps / 6))]
        texts = [words.size(v).replace(".0 ", " ") if self.unit == "B" else f"{v:g} {self.unit}" for v in values]
        return [*([(0.0, "0")] if self.zero else []), *zip(map(self.at, values), texts, strict=True)]
