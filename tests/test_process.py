"""Settings of the process: freed memory (counted in page faults and resident bytes), and FAISS's kernels."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import types

import pytest

from kc import process
from kc.process import AVX512, CORE_TYPE, core_type, faiss_kernels, kept_heap

# In a process of its own: whose blocks lie on top of the heap decides what the library returns.
STEPS = """
import ctypes, json, resource, sys
from kc.process import MIB, kept_heap
from kc.stream.cost import CostMeter

PR_SET_THP_DISABLE = 41  # huge pages would be counted as one each
assert ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0

def step(block):
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    kept = [bytearray(b"1") * block for _ in range(256 * MIB // block)]
    del kept
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

block, found = int(sys.argv[1]) * MIB, {}
found["before"] = [step(block) for _ in range(6)][3:]
try:
    with kept_heap():
        with kept_heap():
            step(block)
        found["inside"] = [step(block) for _ in range(6)][3:]
        found["held"] = resident()
        with CostMeter() as cost:
            pass
        found["charged"] = cost.peak_rss_bytes // resource.getpagesize()
        raise KeyError
except KeyError:
    found["left"] = resident()
found["after"] = [step(block) for _ in range(6)][3:]
found["pages"] = 256 * MIB // resource.getpagesize()
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
@pytest.mark.parametrize("block", [4, 64])
def test_a_step_has_the_pages_of_the_one_before(block: int) -> None:
    done = subprocess.run([sys.executable, "-c", STEPS, str(block)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    pages = found["pages"]
    assert max(found["inside"]) < pages / 100
    assert min(found["before"]) > pages / 2 < min(found["after"])  # without it they are returned and asked for again
    assert found["left"] < found["held"] - pages / 2
    assert found["charged"] < found["held"] - pages / 2  # what others freed is no cost of the next


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_without_that_library_nothing_happens(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.sys, "platform", system)
    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: types.SimpleNamespace())
    with kept_heap():
        entered = True
    assert entered


def info(vendor: str, flags: set[str]) -> str:
    one = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: x: y\nflags\t\t: fpu {' '.join(sorted(flags))} avx\n"
    return one + "\n" + one.replace(vendor, "other").replace("flags", "nothing")


def test_avx512_is_asked_for_where_amd_has_all_of_it() -> None:
    assert core_type(info("AuthenticAMD", AVX512)) == "SkylakeX"
    for flag in AVX512:
        assert core_type(info("AuthenticAMD", AVX512 - {flag})) is None
    assert core_type(info("GenuineIntel", AVX512)) is None
    assert core_type("") is None
    assert core_type("Processor\t: AArch64 Processor rev 4\nFeatures\t: fp asimd\n") is None


@pytest.mark.parametrize(("configured", "given", "within"), [(False, None, None), (True, None, "X"), (True, "Y", "Y")])
def test_kernels_are_chosen_for_faiss_alone_and_only_by_commands(
    configured: bool, given: str | None, within: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_configured", configured)
    monkeypatch.setattr(process, "core_type", lambda text: "X")
    monkeypatch.delenv(CORE_TYPE, raising=False)
    if given is not None:
        monkeypatch.setenv(CORE_TYPE, given)
    with faiss_kernels():
        assert os.environ.get(CORE_TYPE) == (within if sys.platform == "linux" else given)
    assert os.environ.get(CORE_TYPE) == given


def test_importing_kc_changes_no_setting_of_the_process() -> None:
    code = "import os, kc.memory.disk; assert not {'OMP_WAIT_POLICY', 'OPENBLAS_CORETYPE'} & os.environ.keys()"
    env = {name: value for name, value in os.environ.items() if name not in (CORE_TYPE, "OMP_WAIT_POLICY")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
