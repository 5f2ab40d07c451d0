"""Index files: derived from the rows, checked before they are read, replaced by rename; the rows remain the truth.

Only the writer of a memory stores and removes them: what a reader left behind could outlive an erase.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

from kc.errors import CorruptMemoryError
from kc.files import atomic_path
from kc.memory.search.index import Index
from kc.memory.search.threads import faiss
from kc.memory.store import files
from kc.memory.store.upkeep import DERIVED, derived
from kc.outside import parse_json

SCHEMA = 1
_STORED = ("kind", "trained_rows", "effort", "recall")


def folder(root: Path, segments: tuple[str, ...]) -> Path:
    """Where the indexes of this list of segments lie."""
    name = hashlib.sha256("\n".join(segments).encode()).hexdigest()[:16]
    return files.within(root, f"{DERIVED}/{name}")


def _descriptions(root: Path, kind: str = "*") -> list[Path]:
    """Those of the stored indexes, without any that a link keeps elsewhere."""
    found = derived(root).glob(f"*/{kind}.json")
    return sorted(path for path in found if not (path.is_symlink() or path.parent.is_symlink()))


def save(root: Path, index: Index) -> None:
    """Store `index`; the description, written last, makes it valid. A disk that does not take it is a warning."""
    home = folder(root, index.segments)
    path = home / f"{index.kind}.faiss"
    try:
        with atomic_path(path, failures=()) as temporary:
            faiss.write_index(index.faiss_index, str(temporary))
            ref = temporary.stat().st_size, files.checksum_of(temporary)
        own = {name: getattr(index, name) for name in _STORED}
        body = {"schema": SCHEMA, "segments": list(index.segments), "rows": len(index), "ref": list(ref), **own}
        files.replace_bytes(path.with_suffix(".json"), _sealed(body))
    except (OSError, RuntimeError) as error:  # FAISS tells of a full disk by a RuntimeError
        warnings.warn(
            f"{path}: the index cannot be stored ({error}); it serves this process only", RuntimeWarning, stacklevel=2
        )


def load(root: Path, kind: str, segments: tuple[str, ...], dim: int, writes: bool) -> Index | None:
    """The stored index of these segments, or of the most of them that it was made for; None if there is none.

    A file that is not what its description says is passed over with a warning, and removed by who `writes`.
    """
    stored = []
    for description in _descriptions(root, kind):
        try:
            body = _describe(description)
            prefix = tuple(body["segments"])
            if prefix == segments[: len(prefix)]:
                stored.append((len(prefix), description, body))
        except (OSError, ValueError, KeyError, TypeError, CorruptMemoryError) as error:
            _refuse(description, error, writes)
    for _, description, body in sorted(stored, key=lambda s: s[0], reverse=True):
        try:
            return _read(description, body, kind, dim)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, CorruptMemoryError) as error:
            _refuse(description, error, writes)
    return None


def prune(root: Path, keep: Path) -> None:
    """Remove the indexes of older states."""
    for description in _descriptions(root):
        if description.parent != keep and description.with_suffix(".faiss").exists():
            _remove(description)


def check(root: Path) -> list[str]:
    """What is wrong with the stored indexes, a sentence a file."""
    wrong = []
    for description in _descriptions(root):
        try:
            size, digest = _describe(description)["ref"]
            files.check_file(description.with_suffix(".faiss"), (size, digest))
        except CorruptMemoryError as error:
            wrong.append(str(error))
        except (OSError, ValueError, KeyError, TypeError) as error:
            wrong.append(f"{description}: not the description of an index ({error})")
    return wrong


def _sealed(body: dict[str, Any]) -> bytes:
    """`body` as JSON with its own checksum."""
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "checksum": checksum}, sort_keys=True).encode()


def _describe(description: Path) -> dict[str, Any]:
    content = description.read_bytes()
    body: dict[str, Any] = parse_json(content, str(description), error=CorruptMemoryError)
    del body["checksum"]
    if content != _sealed(body):
        raise ValueError("its checksum does not fit")
    if body["schema"] != SCHEMA:
        raise ValueError(f"schema {body['schema']}, this version of kc reads {SCHEMA}")
    if not body["segments"]:
        raise ValueError("it names no segment")
    return body


def _read(description: Path, body: dict[str, Any], kind: str, dim: int) -> Index:
    path = description.with_suffix(".faiss")
    size, digest = body["ref"]
    files.check_file(path, (size, digest))
    inner = faiss.read_index(str(path))
    if (inner.d, inner.ntotal, inner.metric_type) != (dim, body["rows"], faiss.METRIC_INNER_PRODUCT):
        raise ValueError(f"it holds {inner.ntotal} rows of {inner.d} values")
    numbers = int(body["trained_rows"]), int(body["effort"]), float(body["recall"])
    return Index(kind, inner, tuple(body["segments"]), *numbers)


def _refuse(description: Path, error: Exception, writes: bool) -> None:
    warnings.warn(
        f"{description.with_suffix('.faiss')} is not an index of this memory and is built again: {error}",
        RuntimeWarning,
        stacklevel=2,
    )
    if writes:
        _remove(description)


def _remove(description: Path) -> None:
    """Description first: without it the index is nothing."""
    description.unlink(missing_ok=True)
    description.with_suffix(".faiss").unlink(missing_ok=True)
    if not any(description.parent.iterdir()):
        description.parent.rmdir()
