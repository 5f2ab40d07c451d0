"""How many bytes all in-memory caches of a process may hold together, and the bounded cache that they are made of."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from kc.errors import RunError

VARIABLE = "KC_CACHE_BYTES"
"""Environment variable: bytes of all caches together, as a number or with K, M, G (1024 times)."""
PART = 0.25
"""Without KC_CACHE_BYTES: the part of the available memory that caches take."""
FEATURES, SAMPLES, REGIONS, ANSWERS, SEARCHES = 0.3, 0.2, 0.2, 0.2, 0.1
"""Their shares: encoded images, decoded samples, region keys, outputs of open-vocabulary base models,
rows of filtered searches of the memory."""
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "total_inactive_file",
    ),
)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def cache_bytes(share: float) -> int:
    """The bytes of a cache that has `share` in [0, 1] of all that the caches of this process may hold.

    All of them: KC_CACHE_BYTES, else PART of the memory available when it is first asked for, divided by the processes
    of this run on this machine. Raises RunError where the variable holds no number.
    """
    return int(share * _all_caches(os.environ.get(VARIABLE, "")))


@lru_cache(maxsize=1)
def _all_caches(given: str) -> int:
    if given:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", given.strip(), re.IGNORECASE)
        if match is None:
            raise RunError(f"{VARIABLE} is {given!r}; expected a number of bytes, or one with K, M or G, such as 4G")
        return int(float(match[1]) * _UNITS[match[2].upper()])
    return int(PART * available_bytes()) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def available_bytes() -> int:
    """Bytes that this process may still use: of the machine, or of its container (control group) where that is less."""
    import psutil

    left = [int(psutil.virtual_memory().available)]
    for limit, used, unused in _CGROUPS:
        try:
            most = int(Path(limit).read_text())  # "max": no limit
            now = int(Path(used).read_text())
            stat = dict(line.split() for line in Path(limit).with_name("memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        left.append(max(0, most - now + int(stat.get(unused, 0))))  # files in the page cache give way
    return min(left)


class BoundedCache(Generic[K, V]):
    """Values by key, of at most `budget` bytes together.

    Args:
        budget: Bytes.
        size_of: Bytes of a value.
        evict: What is full drops the least recently used values, except the newest. False: it takes nothing more, which
            finds more where the same values are asked for in the same order again and again.
    """

    def __init__(self, budget: int, size_of: Callable[[V], int], *, evict: bool = True) -> None:
        self.budget = budget
        self.used = 0
        self._size_of = size_of
        self._evict = evict
        self._values: OrderedDict[K, V] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value of `key`, None where it is not kept."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: K, value: V) -> None:
        """Keep `value`, if there is room for it."""
        size = self._size_of(value)
        if not self._evict and self.used + size > self.budget:
            return
        self.discard(key)
        self._values[key] = value
        self.used += size
        while self.used > self.budget and len(self._values) > 1:
            self.used -= self._size_of(self._values.popitem(last=False)[1])

    def get_or_make(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`, made by `make` where it is not kept."""
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value)
        return value

    def discard(self, key: K) -> None:
        """Forget the value of `key`, if there is one."""
        if key in self._values:
            self.used -= self._size_of(self._values.pop(key))
