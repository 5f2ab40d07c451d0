"""The manifest: which files are the memory, and which of them each version sees."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kc.errors import CorruptMemoryError, RunError
from kc.memory.store import files
from kc.memory.store.files import FileRef, replace_bytes
from kc.memory.store.info import MemoryInfo
from kc.memory.store.inputs import MOST_TASK, MOST_VALUES
from kc.outside import parse_json, plain_name, read_text

SCHEMA = 4
"""Older memories are refused: they lack `MemoryInfo`, and count classes around the reserved ids 254 and 255."""
NAME = "MANIFEST"
MAGIC = "kc-memory-manifest"
INLINE_CHARS = 2**18
"""Small deltas are kept in the manifest itself, up to this size together: a file of its own costs two more fsyncs."""
VECTORS = "vectors.f32.npy"
COLUMNS = {
    "ids": "ids.npy",
    "class_id": "class.npy",
    "task": "task.npy",
    "added": "added.npy",
    "weight": "weight.npy",
    "segment": "segment.npy",
}
"""Column of numbers -> its file."""
NAMES = ("sample", "source")
"""Columns of names: codes in NAME.npy, the distinct names in NAMEs.jsonl."""
FILES = {VECTORS, *COLUMNS.values(), *(f"{kind}{ending}" for kind in NAMES for ending in (".npy", "s.jsonl"))}
"""Files of a segment."""
DELTA_TYPES = {"tombstones": np.int64, "weights": np.float32, "relabels": np.int64}
"""Kind of delta -> type of its value column (a tombstone's value is the id again)."""


@dataclass(frozen=True)
class SegmentInfo:
    """One immutable folder of rows, ids ascending; every row was added by a commit numbered <= `added`."""

    name: str
    rows: int
    first_id: int
    last_id: int
    added: int
    files: dict[str, FileRef]


@dataclass(frozen=True)
class DeltaInfo:
    """Changes that commit `seq` makes to older rows; `kind` is tombstones, weights or relabels.

    They are in the file deltas/`name` (`ref`), or in `data` (then `ref` is None).
    """

    seq: int
    kind: str
    name: str
    rows: int
    ref: FileRef | None
    data: str = ""


@dataclass(frozen=True)
class VersionInfo:
    """The memory as it was when `task` was committed: commit number `seq`, `rows` visible rows."""

    task: int
    seq: int
    rows: int


@dataclass(frozen=True)
class MemoryManifest:
    """Everything a reader needs to see one state. `number` grows with every commit and is never reused."""

    number: int
    fingerprint: str
    dim: int
    next_id: int = 0
    next_segment: int = 0
    segments: tuple[SegmentInfo, ...] = ()
    deltas: tuple[DeltaInfo, ...] = ()
    versions: tuple[VersionInfo, ...] = ()
    salt: str = ""
    """Of the hashes that stand for names in an anonymous memory; empty: names are kept as they are."""
    info: MemoryInfo | None = None
    """What the memory says of itself; None: nothing."""

    @property
    def last_change(self) -> int:
        """Number of the newest commit that changed what is visible: the present shows what it did."""
        return max([0, *(s.added for s in self.segments), *(d.seq for d in self.deltas)])

    def named_files(self) -> dict[str, FileRef]:
        """Relative path of every data file -> size and checksum."""
        files = {f"segments/{s.name}/{name}": ref for s in self.segments for name, ref in s.files.items()}
        files.update({f"deltas/{d.name}": d.ref for d in self.deltas if d.ref is not None})
        return files

    def to_bytes(self) -> bytes:
        """One line with the schema and the checksum of the rest, which is JSON."""
        body = {
            **vars(self),
            "segments": [vars(s) for s in self.segments],
            "deltas": [vars(d) for d in self.deltas],
            "versions": [vars(v) for v in self.versions],
            "info": None if self.info is None else self.info.to_json(),
        }
        text = json.dumps(body, sort_keys=True).encode()
        return f"{MAGIC} {SCHEMA} {hashlib.sha256(text).hexdigest()}\n".encode() + text


def parse(path: Path) -> MemoryManifest:
    """Read a manifest, which somebody else may have made: RunError if an older kc wrote it, CorruptMemoryError
    if it is not what this one writes."""
    content = read_text(path, error=CorruptMemoryError)
    if content.startswith("manifest-"):  # schema 1 named a second file
        raise outdated(path.parent, 1)
    try:
        first, _, text = content.partition("\n")
        magic, schema, checksum = first.split(" ")
        if magic != MAGIC or not (schema.isascii() and schema.isdigit() and len(schema) < 9):
            raise ValueError("it does not begin as one")
        if 0 < int(schema) < SCHEMA:
            raise outdated(path.parent, int(schema))
        if int(schema) != SCHEMA:
            raise ValueError(f"it is of schema {schema}, this version of kc reads {SCHEMA}")
        if checksum != hashlib.sha256(text.encode()).hexdigest():
            raise ValueError("its checksum does not fit")
        return _manifest(parse_json(text, str(path), error=CorruptMemoryError))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CorruptMemoryError(f"{path}: not a whole memory manifest ({error})") from error


def outdated(root: object, schema: int) -> RunError:
    """The error for a memory of another schema than `SCHEMA`."""
    return RunError(
        f"{root} is a memory of schema {schema}, and this version of kc reads schema {SCHEMA} only: class ids and "
        "what memories say of themselves have changed. Build it again (kc run, kc memory build, kc remember)."
    )


def _manifest(body: dict[str, Any]) -> MemoryManifest:
    if not all(isinstance(body[name], list) for name in ("segments", "deltas", "versions")):
        raise ValueError("its segments, changes and versions are no lists")
    segments = tuple(
        SegmentInfo(**{**s, "files": {n: _ref(r) for n, r in s["files"].items()}}) for s in body.pop("segments")
    )
    deltas = tuple(DeltaInfo(**{**d, "ref": None if d["ref"] is None else _ref(d["ref"])}) for d in body.pop("deltas"))
    versions = tuple(VersionInfo(**v) for v in body.pop("versions"))
    info = MemoryInfo.from_json(body.pop("info"))
    manifest = MemoryManifest(**body, segments=segments, deltas=deltas, versions=versions, info=info)
    for record in (manifest, *segments, *deltas, *versions):
        _check(record)
    bytes.fromhex(manifest.salt)
    if not 1 <= manifest.dim <= MOST_VALUES or any(s.rows < 1 or s.files.keys() != FILES for s in segments):
        raise ValueError("no memory is of this size, or of these files")
    return manifest


def _check(record: Any) -> None:
    """ValueError for a number that is none from 0 to below 2**62, a text that is none, or a name that is no file's."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.type == "int" and not (type(value) is int and 0 <= value < MOST_TASK):
            raise ValueError(f"{field.name} is {value!r}")
        if field.type == "str" and not isinstance(value, str):
            raise ValueError(f"{field.name} is {value!r}")
        if field.name == "name":
            plain_name(value, "its manifest", error=CorruptMemoryError)
        if field.name == "kind" and value not in DELTA_TYPES:
            raise ValueError(f"a change of kind {value!r}")


def _ref(ref: Any) -> FileRef:
    size, checksum = ref
    if type(size) is not int or not isinstance(checksum, str):
        raise ValueError(f"{ref} is no size and checksum")
    return size, checksum


def load(root: Path) -> MemoryManifest:
    """The current manifest of the memory in `root`.

    Raises RunError where there is no memory, CorruptMemoryError naming the file that does not fit.
    """
    if (root / NAME).is_file():
        return parse(files.within(root, NAME))
    if (root / "segments").is_dir() or os.path.lexists(root / NAME):
        raise CorruptMemoryError(f"{root / NAME} is missing: restore it from a copy")
    raise RunError(f"no memory in {root}: build one first, or check the path")


def publish(root: Path, manifest: MemoryManifest) -> None:
    """Make `manifest` the current one: after the rename every new reader sees it, before it none.

    Two fsyncs, the least that a rename needs: one for the bytes, or the name could come to point at none of them; one
    for the folder, or the rename itself could be lost after it was acknowledged.
    """
    replace_bytes(root / NAME, manifest.to_bytes())


def orphans(root: Path, manifest: MemoryManifest) -> list[Path]:
    """What lies under `root` and is named by nothing: left by a crash or a finished rewrite. Never the cache folder."""
    kept_segments = {s.name for s in manifest.segments}
    kept_deltas = {d.name for d in manifest.deltas if d.ref is not None}
    found = [p for p in _children(root, "segments") if p.name not in kept_segments]
    for info in manifest.segments:
        found += [p for p in _children(root, f"segments/{info.name}") if p.name not in info.files]
    found += [p for p in _children(root, "deltas") if p.name not in kept_deltas]
    found += list(root.glob("*.tmp"))
    return sorted(found)


def _children(root: Path, folder: str) -> list[Path]:
    place = files.within(root, folder)
    return [root / folder / path.name for path in place.iterdir()] if place.is_dir() else []
