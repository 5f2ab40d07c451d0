"""Which code FAISS's matrix products use: chosen where OpenBLAS would not know the processor, and only for FAISS."""

from __future__ import annotations

import os

import pytest

from kc.memory.search import blas
from kc.memory.search.blas import CHOICE, NEEDED, core_type, faiss


def info(vendor: str, flags: set[str]) -> str:
    one = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: x: y\nflags\t\t: fpu {' '.join(sorted(flags))} avx\n"
    return one + "\n" + one.replace(vendor, "other").replace("flags", "nothing")


def test_avx512_is_asked_for_where_amd_has_all_of_it() -> None:
    assert core_type(info("AuthenticAMD", NEEDED)) == "SkylakeX"
    for flag in NEEDED:
        assert core_type(info("AuthenticAMD", NEEDED - {flag})) is None
    assert core_type(info("GenuineIntel", NEEDED)) is None
    assert core_type("") is None
    assert core_type("Processor\t: AArch64 Processor rev 4\nFeatures\t: fp asimd\n") is None


def test_the_choice_of_the_user_and_of_other_libraries_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CHOICE not in os.environ or blas._chosen is None
    monkeypatch.setenv(CHOICE, "Haswell")
    assert blas._choose() is None
    assert faiss.METRIC_INNER_PRODUCT == 0
