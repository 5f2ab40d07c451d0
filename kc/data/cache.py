"""The folder of everything derived from data (indices, composed scenes), and atomic writing into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kc.errors import DataError


def cache_dir() -> Path:
    """The cache folder: environment variable KC_CACHE, else `~/.cache/kc`. Not created here."""
    given = os.environ.get("KC_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "kc"


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` complete or not at all.

    Raises:
        DataError: the folder cannot be written or the disk is full; names the folder and KC_CACHE.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise _not_writable(path, error) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `path` when the block ends without an error.

    If another process made `path` meanwhile, its folder stays and ours is dropped: both hold the same content.

    Raises:
        DataError: the folder cannot be written or the disk is full; names the folder and KC_CACHE.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
    except OSError as error:
        raise _not_writable(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _not_writable(path: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    return DataError(
        f"cannot write {path}: {reason}. Free space there, or set KC_CACHE to a folder that can be written."
    )
