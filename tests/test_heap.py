"""Freed memory stays while a network learns and goes back afterwards: counted in page faults and resident bytes."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import types

import pytest

from kc import heap
from kc.heap import kept_heap

# In a process of its own: whose blocks lie on top of the heap decides what the library returns.
STEPS = """
import ctypes, json, resource, sys
from kc.heap import MIB, kept_heap
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
    monkeypatch.setattr(heap.sys, "platform", system)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: types.SimpleNamespace())
    with kept_heap():
        entered = True
    assert entered
