"""What learning a task costs: wall seconds and the highest resident memory of the process meanwhile."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil

from kc.process import give_back


class CostMeter:
    """Context manager; `seconds` and `peak_rss_bytes` are final on exit or after `stop()`.

    The peak is sampled 50 times a second, because the operating system's own maximum never falls again and would
    charge every method with the largest one before it. For the same reason what others freed is given back first.
    """

    def __init__(self, interval: float = 0.02) -> None:
        self.interval = interval
        self.seconds = 0.0
        self.peak_rss_bytes = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            self.peak_rss_bytes = max(self.peak_rss_bytes, process.memory_info().rss)
            if self._stop.wait(self.interval):
                return

    def __enter__(self) -> CostMeter:
        give_back()
        self._start = time.perf_counter()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the measurement; a second call changes nothing."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self.seconds = time.perf_counter() - self._start
