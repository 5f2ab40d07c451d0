"""What the machine can do, measured in the same run as everything that is compared with it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

REST = 0.05
"""Seconds after which the threads of a BLAS no longer spin: until then they slow whoever comes next."""


def seconds(call: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def least(call: Callable[[], object], times: int = 5) -> float:
    """The shortest of several calls: others on the machine only ever add to it."""
    return min(seconds(call) for _ in range(times))


def rounds(calls: Sequence[Callable[[], object]], times: int, rest: float = 0.0) -> list[npt.NDArray[np.float64]]:
    """Seconds of each call, (times,) an array each, taken in turn: what slows one round slows all of it.

    rest: seconds before each call.
    """

    def rested(call: Callable[[], object]) -> float:
        time.sleep(rest)
        return seconds(call)

    taken = np.array([[rested(call) for call in calls] for _ in range(times)])
    return list(taken.T)


def pairs(ours: Callable[[], object], theirs: Callable[[], object], times: int) -> tuple[float, float, float]:
    """Shortest seconds of each, and the median of the ratios ours / theirs, called in turn."""
    b, a = rounds((theirs, ours), times)
    return float(a.min()), float(b.min()), float(np.median(a / b))


def sgemm(n: int = 2048) -> tuple[Callable[[], object], int]:
    """A float32 product (n, n) x (n, n), and its FLOP."""
    a = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
    return lambda: a @ a, 2 * n**3


def reading(n_bytes: int = 2**30) -> tuple[Callable[[], object], int]:
    """One pass over an array larger than any cache (its dot product with itself), and its bytes."""
    x = np.ones(n_bytes // 4, np.float32)
    return lambda: x @ x, n_bytes


def write_rate(folder: Path, n_bytes: int = 2**28, times: int = 3) -> float:
    """Bytes/s of writing one new file of at least `n_bytes` and its fsync: the best of several times."""
    data = np.random.default_rng(0).bytes(min(n_bytes, 2**26))
    parts = -(-n_bytes // len(data))
    path = folder / "rate.bin"

    def write() -> None:
        with path.open("wb") as file:
            for _ in range(parts):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())

    rate = parts * len(data) / least(write, times)
    path.unlink()
    return rate


def describe(folder: Path, quick: bool) -> dict[str, Any]:
    """The machine and its peaks."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    multiply, flop = sgemm(512 if quick else 2048)
    read, n_bytes = reading(2**26 if quick else 2**30)
    return {
        "cpu": model,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load": os.getloadavg()[0],
        "sgemm_gflops": flop / least(multiply) / 1e9,
        "read_gb_s": n_bytes / least(read) / 1e9,
        "write_mb_s": write_rate(folder, 2**24 if quick else 2**28) / 1e6,
    }
