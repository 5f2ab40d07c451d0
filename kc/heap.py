"""What one step frees stays with the process for the next one; what a task freed is given back when it is over."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt, from malloc.h of the GNU C library.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
MIB = 1 << 20
_keepers = 0


def _library() -> ctypes.CDLL | None:
    """The GNU C library, if it keeps this process's heap."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "gnu_get_libc_version") else None


def give_back() -> None:
    """Return to the operating system what was freed; without the GNU C library nothing happens."""
    library = _library()
    if library is not None:
        library.malloc_trim(0)


@contextmanager
def kept_heap() -> Iterator[None]:
    """Until the end nothing that is freed goes back to the operating system by itself; then everything does.

    A network frees what it computed, layer by layer and step by step. The GNU C library returns the top of the heap as
    soon as more than at most 64 MiB of it are free, and blocks above 32 MiB at once; the next image asks for them
    again, page by page, and every page comes zeroed. On one core of a CPU that was a sixth of a training step of lite0,
    and of encoding one image a third at 360 pixels and nearly half at 800. Without that library nothing changes. One
    inside another adds nothing.
    """
    global _keepers
    library = _library()
    if library is None:
        yield
        return
    _keepers += 1
    if _keepers == 1:
        library.mallopt(TRIM_THRESHOLD, -1)
        library.mallopt(MMAP_MAX, 0)
    try:
        yield
    finally:
        _keepers -= 1
        if _keepers == 0:
            # Where the library's own adjustment of the two thresholds, which is off once one was set, would end.
            library.mallopt(TRIM_THRESHOLD, 64 * MIB)
            library.mallopt(MMAP_THRESHOLD, 32 * MIB)
            library.mallopt(MMAP_MAX, 65_536)
            give_back()
