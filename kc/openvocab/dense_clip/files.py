"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from kc.errors import RunError


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` by a temporary file beside it. Raises RunError naming the path where it cannot."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path} ({error.strerror}): free space or choose another folder") from error
