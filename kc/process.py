"""Settings of the whole process: heap, BLAS kernels, waiting threads. Commands make them, importing kc never does."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Parameters of mallopt, from malloc.h of the GNU C library.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
MIB = 1 << 20
CORE_TYPE = "OPENBLAS_CORETYPE"
AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
"""What OpenBLAS's kernels for SkylakeX use."""
_keepers = 0
_configured = False


def configure() -> None:
    """Settings that are read when torch and FAISS load; call before.

    - Waiting OpenMP threads sleep (OMP_WAIT_POLICY): threads that spin make a busy machine 25 times slower (two threads
      beside one other process) and gain nothing measurable on an idle one.
    - FAISS loads with the BLAS kernels of this processor, see `faiss_kernels`.

    What the environment sets already stays.
    """
    global _configured
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _configured = True


def core_type(cpuinfo: str) -> str | None:
    """The kernels that OpenBLAS should use, from the text of /proc/cpuinfo; None to let it choose.

    It knows Intel's processors by their features but AMD's by their model: one newer than itself it takes for a very
    old one. A Zen 5 multiplies as a Barcelona of 2007, 3.6 times slower than with its AVX-512 (100 x 472 by
    472 x 100,000 on one core: 198 ms against 54 ms). Exact search is such a product.
    """
    fields = dict(line.partition(":")[::2] for line in cpuinfo.split("\n\n", 1)[0].splitlines())
    found = {name.strip(): value.strip() for name, value in fields.items()}
    fits = found.get("vendor_id") == "AuthenticAMD" and set(found.get("flags", "").split()) >= AVX512
    return "SkylakeX" if fits else None


@contextmanager
def faiss_kernels() -> Iterator[None]:
    """For the import of FAISS: OPENBLAS_CORETYPE is `core_type` within, where `configure` was called.

    OpenBLAS reads it when the library loads. It is taken back then: other libraries choose for themselves.
    """
    info = Path("/proc/cpuinfo")
    chosen = None
    if _configured and CORE_TYPE not in os.environ and info.exists():
        chosen = core_type(info.read_text(encoding="utf-8"))
    if chosen is not None:
        os.environ[CORE_TYPE] = chosen
    try:
        yield
    finally:
        if chosen is not None:
            del os.environ[CORE_TYPE]


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
