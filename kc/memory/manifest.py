"""The manifest: which files are the memory, and which of them each version sees."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kc.errors import CorruptMemoryError, RunError, UnknownNameError
from kc.memory.files import FileRef, replace_bytes

SCHEMA = 1
POINTER = "MANIFEST"


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
    """One file of changes to older rows; `kind` is tombstones, weights or relabels."""

    seq: int
    kind: str
    name: str
    rows: int
    ref: FileRef


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
    extra: dict[str, Any]
    next_id: int = 0
    next_segment: int = 0
    segments: tuple[SegmentInfo, ...] = ()
    deltas: tuple[DeltaInfo, ...] = ()
    versions: tuple[VersionInfo, ...] = ()

    @property
    def file_name(self) -> str:
        return f"manifest-{self.number:06d}.json"

    @property
    def last_change(self) -> int:
        """Number of the newest commit that changed what is visible: the present shows what it did."""
        return max([0, *(s.added for s in self.segments), *(d.seq for d in self.deltas)])

    def version(self, task: int) -> VersionInfo:
        """The version of `task`; UnknownNameError lists the versions there are."""
        for info in self.versions:
            if info.task == task:
                return info
        known = ", ".join(str(v.task) for v in self.versions) or "none"
        raise UnknownNameError(f"the memory has no version of task {task}; versions: {known}")

    def named_files(self) -> dict[str, FileRef]:
        """Relative path of every data file -> size and sha256."""
        files = {f"segments/{s.name}/{name}": ref for s in self.segments for name, ref in s.files.items()}
        files.update({f"deltas/{d.name}": d.ref for d in self.deltas})
        return files

    def to_json(self) -> str:
        """Canonical JSON with a checksum of itself."""
        body = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return json.dumps({**body, "checksum": _digest(body)}, sort_keys=True, indent=0)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def parse(path: Path) -> MemoryManifest:
    """Read one manifest file. FileNotFoundError if it is gone; CorruptMemoryError if it is not what was written."""
    text = path.read_bytes()
    try:
        body = json.loads(text)
        checksum = body.pop("checksum")
        schema = body.pop("schema")
        if checksum != _digest({"schema": schema, **body}):
            raise ValueError("its checksum does not fit")
        if schema != SCHEMA:
            raise CorruptMemoryError(f"{path}: schema {schema}, this version of kc reads {SCHEMA}")
        segments = tuple(SegmentInfo(**{**s, "files": _refs(s["files"])}) for s in body.pop("segments"))
        deltas = tuple(DeltaInfo(**{**d, "ref": tuple(d["ref"])}) for d in body.pop("deltas"))
        versions = tuple(VersionInfo(**v) for v in body.pop("versions"))
        return MemoryManifest(**body, segments=segments, deltas=deltas, versions=versions)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptMemoryError(f"{path}: not a whole memory manifest ({error})") from error


def _refs(files: dict[str, Any]) -> dict[str, FileRef]:
    return {name: (int(ref[0]), str(ref[1])) for name, ref in files.items()}


def load(root: Path) -> MemoryManifest:
    """The current manifest of the memory in `root`.

    Raises RunError where there is no memory, CorruptMemoryError naming the file that does not fit.
    """
    for _ in range(20):
        try:
            name = (root / POINTER).read_text().strip()
        except UnicodeDecodeError:
            raise CorruptMemoryError(f"{root / POINTER}: not the name of a manifest; try `Memory.repair`") from None
        except (FileNotFoundError, NotADirectoryError):
            if root.is_dir() and any(root.glob("manifest-*.json")):
                raise CorruptMemoryError(f"{root / POINTER} is missing; try `Memory.repair`") from None
            raise RunError(f"no memory in {root}: build one first, or check the path") from None
        if not (name.startswith("manifest-") and name.endswith(".json")) or "/" in name:
            raise CorruptMemoryError(f"{root / POINTER}: {name!r} is not the name of a manifest; try `Memory.repair`")
        try:
            return parse(root / name)
        except FileNotFoundError:
            continue  # a writer replaced it between the two reads: the pointer now names another
    raise CorruptMemoryError(f"{root / POINTER} names {name}, which does not exist; try `Memory.repair`")


def publish(root: Path, manifest: MemoryManifest) -> None:
    """Make `manifest` the current one: after the rename of the pointer every new reader sees it, before it none."""
    replace_bytes(root / manifest.file_name, manifest.to_json().encode())
    replace_bytes(root / POINTER, f"{manifest.file_name}\n".encode())


def orphans(root: Path, manifest: MemoryManifest) -> list[Path]:
    """What lies under `root` and is named by nothing: left by a crash or a finished rewrite. Never the cache folder."""
    kept_segments = {s.name for s in manifest.segments}
    kept_deltas = {d.name for d in manifest.deltas}
    found = [p for p in _children(root / "segments") if p.name not in kept_segments]
    for info in manifest.segments:
        found += [p for p in _children(root / "segments" / info.name) if p.name not in info.files]
    found += [p for p in _children(root / "deltas") if p.name not in kept_deltas]
    found += [p for p in root.glob("manifest-*.json") if p.name != manifest.file_name]
    found += list(root.glob("*.tmp"))
    return sorted(found)


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
