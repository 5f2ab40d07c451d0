"""Settings of the process: freed memory (counted in page faults and resident bytes), and FAISS's kernels."""

from __future__ import annotations

import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import pytest

from kc import process
from kc.process import AVX512, CORE_TYPE, Terminated, core_type, faiss_kernels, kept_heap, stoppable

# In a process of its own: whose blocks lie on top of the heap decides what the library returns.
STEPS = """
import ctypes, json, resource, sys
from kc.process import MIB, kept_heap
from kc.stream.progress import CostMeter

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


def kc(*arguments: str, env: Mapping[str, str] | None = None, shell: str = "") -> subprocess.CompletedProcess[bytes]:
    """`python -m kc` in a process of its own, `shell` behind it."""
    command = f"set -o pipefail; {sys.executable} -m kc {shlex.join(arguments)} {shell}"
    return subprocess.run(["bash", "-c", command], capture_output=True, check=False, env={**os.environ, **(env or {})})


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_takes_only_some_signs(encoding: str) -> None:
    code = "from kc.process import stoppable\nwith stoppable(): print('pq ↑ 1.0 ± 0.1 – ü 梨')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    spelled = {"ascii": r"pq ^ 1.0 +- 0.1 - \xfc \u68a8", "latin-1": "pq ^ 1.0 ± 0.1 - ü \\u68a8"}[encoding]
    assert done.stdout.decode(encoding) == f"{spelled}\n"


def test_a_reader_that_goes_away_is_no_failure_and_a_full_disk_is_one() -> None:
    assert (done := kc("--help", shell="| head -1")).returncode == 0
    assert (len(done.stdout.splitlines()), done.stderr) == (1, b"")
    assert kc("data", "list", shell=">&- 2>&-").returncode == 0
    assert (full := kc("data", "list", shell="> /dev/full")).returncode == 2
    assert full.stderr.startswith(b"error: standard output: No space left on device")


def test_names_that_the_locale_cannot_write_are_one_error(tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = f"from kc.cli import main; raise SystemExit(main(['report', {str(tmp_path)!r} + '/\\xe4pfel']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env={**os.environ, **plain})
    assert (done.returncode, b"PYTHONUTF8=1" in done.stderr, b"Traceback" in done.stderr) == (2, True, False)


def test_sigterm_is_a_stop_and_no_worker_takes_it_for_one() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def job() -> None:
        if (worker := os.fork()) == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 143
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as stop:  # what Lightning does
            raise KeyboardInterrupt("go on") from stop

    with pytest.raises(Terminated, match="go on"), stoppable():
        job()
    assert signal.getsignal(signal.SIGTERM) == before
