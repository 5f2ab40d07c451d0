"""Settings of the whole process: heap, BLAS kernels, waiting threads. Commands make them, importing kc never does."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from kc.errors import KcError, visible

# Parameters of mallopt, from malloc.h of the GNU C library.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
MIB = 1 << 20
CORE_TYPE = "OPENBLAS_CORETYPE"
AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
"""What OpenBLAS's kernels for SkylakeX use."""
PLAIN = str.maketrans({"↑": "^", "↓": "v", "–": "-", "−": "-", "±": "+-", "×": "x", "→": "->", "·": "-", "…": "..."})
"""How signs of our own tables are written where they cannot be."""
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
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # five retries without a network fill a screen
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


BLAS_DATABASE_ROWS, BLAS_QUERY_ROWS = 2048, 1024
_blas_lock = threading.RLock()


def _lock_of_child() -> None:
    # A thread of the parent may hold it, which does not exist in a forked child.
    global _blas_lock
    _blas_lock = threading.RLock()


os.register_at_fork(after_in_child=_lock_of_child)


@contextmanager
def blas_from(faiss: Any, n_values: int) -> Iterator[None]:
    """Within, FAISS takes BLAS once n_queries * dim reaches `n_values` (its own threshold makes 100 masks 9 times
    slower), for BLAS_DATABASE_ROWS rows at a time (its own 1024 cost a twentieth of the time) and BLAS_QUERY_ROWS
    queries: it takes memory for the products of both, in every thread, however few there are."""
    wanted = {"threshold": n_values, "database_bs": BLAS_DATABASE_ROWS, "query_bs": BLAS_QUERY_ROWS}
    with _blas_lock:
        before = {name: getattr(faiss.cvar, f"distance_compute_blas_{name}") for name in wanted}
        try:
            for name, value in wanted.items():
                setattr(faiss.cvar, f"distance_compute_blas_{name}", value)
            yield
        finally:
            for name, value in before.items():
                setattr(faiss.cvar, f"distance_compute_blas_{name}", value)


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


class Patient:
    """An output that never stops a job: signs it cannot take are spelled (PLAIN, else `\\u2713`), and from the first
    failure on (`| head`, a full disk) what is written is dropped. `failure` is then what went wrong."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        if stream.errors in ("strict", "surrogateescape") and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="kc.plain")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As of a file; never raises OSError."""
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """As of a file; never raises OSError."""
        self._try("flush")

    def _try(self, what: str, *arguments: str) -> None:
        try:
            getattr(self._stream, what)(*arguments)
        except OSError as error:
            self.failure = self.failure or error
            with contextlib.suppress(OSError, ValueError):  # what is left in the buffer goes nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


class Clean:
    """An output by which no text can steer a terminal: `kc.errors.visible`. `unchecked` is the output itself, for
    those who clean the text before they colour it (`kc.progress.Plain`). In `logs` libraries may begin a line anew,
    as tqdm does, and their colours are left out."""

    def __init__(self, unchecked: Patient, *, logs: bool = False) -> None:
        self.unchecked, self._logs = unchecked, logs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unchecked, name)

    def write(self, text: str) -> int:
        """As of a file; never raises OSError."""
        again = "\r" * (self._logs and text.startswith("\r"))
        text = re.sub("\x1b\\[[0-9;]*m", "", text) if self._logs else text
        return self.unchecked.write(again + visible(text.removeprefix(again)))


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and (text := error.object[error.start]).translate(PLAIN) != text:
        return text.translate(PLAIN), error.start + 1
    return codecs.backslashreplace_errors(error)


codecs.register_error("kc.plain", _plain)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a scheduler sends before it kills: a stop like that of Ctrl-C."""


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM within is Terminated, and outputs are `Patient` and `Clean`. Raises KcError at the end where what was
    said is lost on a full disk; a reader that went away (`| head`) is no failure."""
    asked: list[int] = []
    mine, main = os.getpid(), threading.current_thread() is threading.main_thread()

    def stop(signum: int, _: object) -> None:
        if os.getpid() != mine:  # a worker that was forked is just to end
            os._exit(128 + signum)
        asked.append(signum)
        raise Terminated

    for fd in range(3):  # one that is closed (`>&-`) would be the number of a file of ours, and libraries print into it
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = signal.signal(signal.SIGTERM, stop) if main else None
    streams = sys.stdout, sys.stderr
    out, err = (Patient(s or open(os.devnull, "w", encoding="utf-8")) for s in streams)  # noqa: SIM115
    sys.stdout, sys.stderr = cast(TextIO, Clean(out)), cast(TextIO, Clean(err, logs=True))
    try:
        yield
        out.flush()
    except KeyboardInterrupt as error:
        if asked:  # Lightning makes a plain one of it
            raise Terminated(*error.args) from error
        raise
    finally:
        sys.stdout, sys.stderr = streams
        if main:
            signal.signal(signal.SIGTERM, before)
    if out.failure is not None and not isinstance(out.failure, BrokenPipeError):
        raise KcError(f"standard output: {out.failure.strerror}: what was printed is lost, files are written")
