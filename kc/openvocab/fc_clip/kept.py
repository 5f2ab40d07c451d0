"""What was computed last, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by key; the least recently used leave when all together exceed `budget` bytes, but one always stays."""

    def __init__(self, budget: int, size_of: Callable[[T], int]) -> None:
        self.budget = budget
        self.size_of = size_of
        self._values: OrderedDict[bytes, T] = OrderedDict()
        self._used = 0

    def get(self, key: bytes, make: Callable[[], T]) -> T:
        """The value of `key`, made where it is not kept."""
        if key not in self._values:
            value = make()
            self._values[key] = value
            self._used += self.size_of(value)
            while self._used > self.budget and len(self._values) > 1:
                self._used -= self.size_of(self._values.popitem(last=False)[1])
        self._values.move_to_end(key)
        return self._values[key]
