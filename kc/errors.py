"""Errors a user can act on: each says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# C0 and C1 but tab and line break; signs that turn the direction of writing, or break a line.
_CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")

_OF_A_WORKER = re.compile(r"\ACaught (\w+) in .*\n(?:\w+\.)*\1: (.*)\n\Z", re.DOTALL)


def visible(text: str) -> str:
    """`text` as a terminal may show it: what would move its cursor, colour it or turn its writing is spelled
    (`\\x1b`)."""
    return _CONTROL.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


class KcError(Exception):
    """Base of every error that kc raises on purpose; the command line prints it without a traceback."""

    def __init__(self, *args: object) -> None:
        # PyTorch raises an error of a DataLoader's worker process anew, with that process's traceback as its text.
        super().__init__(*(_OF_A_WORKER.sub(r"\2", a) if isinstance(a, str) else a for a in args))

    def __str__(self) -> str:
        return visible(super().__str__())


class ManifestError(KcError):
    """A benchmark manifest, or data that contradicts it."""


class DataError(KcError):
    """An image, mask or annotation that cannot be read or does not fit its manifest."""


class SplitError(KcError):
    """A stream of tasks that cannot be built: too many tasks, an empty one, an unknown split."""


class UnknownNameError(KcError):
    """A benchmark, method, encoder or option value that does not exist."""


class MissingExtraError(KcError):
    """An optional package or weight file that is not installed; names what to install."""


class EmptyMemoryError(KcError):
    """A search in a memory without a visible row."""


class CorruptMemoryError(KcError):
    """A memory whose files do not match their manifest."""


class FingerprintError(KcError):
    """Rows or queries of another encoder than the memory's; names both."""


class MemoryLockedError(KcError):
    """A second writer on a memory that already has one."""


class DivergedError(KcError):
    """A loss that is no longer a number; names the method, the step and the task."""


class RunError(KcError):
    """A run folder that cannot be written, or does not fit what is asked to resume it."""


@contextmanager
def stopped(how: str) -> Iterator[None]:
    """Ctrl-C within is one line on the command line that says `how` to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(how) from stop


def nearest(name: str, valid: Iterable[str], n: int = 3) -> list[str]:
    """The `n` valid names closest to `name`, best first (may be empty)."""
    return difflib.get_close_matches(name, list(valid), n=n, cutoff=0.4)


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UnknownNameError:
    """An error for a mistyped name: what was asked, the nearest valid names, and all of them."""
    names = sorted(valid)
    close = nearest(name, names)
    hint = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    return UnknownNameError(f"unknown {kind} {name!r}.{hint} Valid: {', '.join(names) or 'none'}.")
