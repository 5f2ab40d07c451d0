"""FAISS, with matrix products as fast as the processor allows.

FAISS's OpenBLAS chooses its code by the model of the processor. One that is newer than itself it takes for a very old
one: a Zen 5 multiplies as a Barcelona of 2007, 3.6 times slower than with the AVX-512 that it has (100 x 472 by
472 x 100,000 on one core: 198 ms against 54 ms). Exact search is such a product. Import FAISS from here.
"""

from __future__ import annotations

import os
from pathlib import Path

CHOICE = "OPENBLAS_CORETYPE"
NEEDED = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
"""What OpenBLAS's code for SkylakeX may use."""


def core_type(cpuinfo: str) -> str | None:
    """The code that OpenBLAS should use, from the text of /proc/cpuinfo; None to let it choose.

    It knows Intel's processors by their features; of AMD's it must know the model.
    """
    fields = dict(line.partition(":")[::2] for line in cpuinfo.split("\n\n", 1)[0].splitlines())
    found = {name.strip(): value.strip() for name, value in fields.items()}
    fits = found.get("vendor_id") == "AuthenticAMD" and set(found.get("flags", "").split()) >= NEEDED
    return "SkylakeX" if fits else None


def _choose() -> str | None:
    info = Path("/proc/cpuinfo")
    return core_type(info.read_text(encoding="utf-8")) if CHOICE not in os.environ and info.exists() else None


# Read when the library loads, and taken back then: other libraries and other processes choose for themselves.
_chosen = _choose()
if _chosen is not None:
    os.environ[CHOICE] = _chosen
try:
    import faiss
finally:
    if _chosen is not None:
        del os.environ[CHOICE]

__all__ = ["core_type", "faiss"]
