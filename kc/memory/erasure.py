"""Proof that erased rows are gone: no file holds them, and the memory answers as if it had been built without them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kc.memory.base import MemoryStore
from kc.memory.disk import Memory
from kc.memory.search.planner import SearchOptions
from kc.memory.store import manifest as manifests
from kc.memory.store.inputs import Ids, as_ids
from kc.memory.store.segments import Segment, read_delta
from kc.memory.store.table import Table
from kc.types import Float32Array, Int64Array

READ_BYTES = 1 << 24
"""Bytes of a file that are looked through at once."""

NOT_ERASED = (
    "the encoder: it may have been trained on the image, and what it learned there is in its weights",
    "copies: exports, backups and merged memories keep their own rows",
    "the caches of features and regions (KC_CACHE), the checkpoints and the report of the run that made the memory",
    "blocks of the disk that the file system has freed and not overwritten",
)
"""What erasing rows of a memory does not reach."""


@dataclass(frozen=True)
class Traces:
    """What must not be found: `ids` (N,) int64, `keys` (N, D) float32, and names of samples and sources."""

    ids: Int64Array
    keys: Float32Array
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Absence:
    """What was looked through, and where something was `found` (a sentence each; empty: the rows are gone)."""

    files: int
    bytes: int
    found: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether nothing was found."""
        return not self.found


def traces(memory: MemoryStore, ids: Ids) -> Traces:
    """What stored rows leave in files, to be taken before they are erased. ValueError names an id that is not stored.

    A name counts only where no other row, visible or retired, has it: the image of a row that stays keeps its name.
    """
    wanted = as_ids(ids)
    everything = memory.rows_of(memory.ids(retired=True))
    erased = np.isin(everything.id, wanted)
    return Traces(wanted, memory.keys(wanted), _only_of(erased, everything.sample_id, everything.source))


def traces_of_export(tables: Iterable[Table], memory: MemoryStore, ids: Ids | None = None) -> Traces:
    """The same from the tables of an export that was made before; `ids`: those of the export, all where None.

    ValueError for an id that the export does not hold.
    """
    parts = list(tables)
    all_ids = np.concatenate([t.ids for t in parts]) if parts else np.zeros(0, np.int64)
    wanted = all_ids if ids is None else as_ids(ids)
    missing = np.setdiff1d(wanted, all_ids)
    if len(missing):
        raise ValueError(f"the export holds no row with id {', '.join(map(str, missing[:10]))}")
    chosen = [t.take(np.flatnonzero(np.isin(t.ids, wanted))) for t in parts]
    keys = np.concatenate([t.vectors for t in chosen]) if chosen else np.zeros((0, memory.dim), np.float32)
    stored = memory.rows_of(memory.ids(retired=True))
    kept = set(stored.sample_id) | set(stored.source)
    names = {name for t in chosen for column in (t.sample, t.source) for name in column.used().names} - kept
    return Traces(wanted, keys, tuple(sorted(names - {""})))


def _only_of(erased: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], *columns: tuple[str, ...]) -> tuple[str, ...]:
    names: set[str] = set()
    for column in columns:
        kept = {name for name, out in zip(column, erased, strict=True) if not out}
        names |= {name for name, out in zip(column, erased, strict=True) if out} - kept
    return tuple(sorted(names - {""}))


def prove_absent(root: str | Path, gone: Traces) -> Absence:
    """Look for rows in every file under the memory `root`, whatever its name: segments, deltas, caches, leftovers.

    Keys are looked for as their bytes at any offset, names as they stand in the store (JSON strings), ids among those
    of every segment and every change. Raises CorruptMemoryError for a file that cannot be read as what it is.
    """
    folder = Path(root)
    found = list(_ids_left(folder, gone.ids))
    # As the store writes them, and as another writer of JSON would.
    names = sorted(
        {
            (name, json.dumps(name, ensure_ascii=ascii_only).encode(errors="surrogatepass"))
            for name in gone.names
            for ascii_only in (True, False)
        }
    )
    n_files = n_bytes = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        n_files, n_bytes = n_files + 1, n_bytes + path.stat().st_size
        keys, seen = _search_file(path, gone.keys, [pattern for _, pattern in names])
        relative = path.relative_to(folder)
        if keys:
            shown = ", ".join(str(int(gone.ids[i])) for i in sorted(keys)[:10])
            found.append(f"{relative} holds the key of {len(keys)} of the rows ({shown})")
        if seen:
            left = sorted({names[i][0] for i in seen})
            found.append(f"{relative} holds {len(left)} of the names ({', '.join(map(repr, left[:10]))})")
    return Absence(n_files, n_bytes, tuple(found))


def _ids_left(root: Path, ids: Int64Array) -> Iterator[str]:
    manifest = manifests.load(root)
    for info in manifest.segments:
        left = np.intersect1d(Segment(root, info).ids, ids)
        if len(left):
            yield f"segment {info.name} holds {len(left)} of the ids ({', '.join(map(str, left[:10]))})"
    for delta in manifest.deltas:
        left = np.intersect1d(read_delta(root, delta)[0], ids)
        if len(left):
            yield f"change {delta.name} names {len(left)} of the ids ({', '.join(map(str, left[:10]))})"


def _search_file(path: Path, keys: Float32Array, names: list[bytes]) -> tuple[set[int], set[int]]:
    """Which keys (rows of `keys`) and which names a file holds."""
    patterns = [key.tobytes() for key in np.ascontiguousarray(keys)]
    words, places, owners = _anchors(keys)
    longest = max([len(p) for p in (*patterns, *names)], default=1)
    found_keys: set[int] = set()
    found_names: set[int] = set()
    with path.open("rb") as file:
        data = b""
        while new := file.read(READ_BYTES):
            # The end of the last chunk stays in front, so that what lies across a border is seen whole.
            data = data[-(longest - 1) :] + new if longest > 1 else new
            found_names |= {i for i, name in enumerate(names) if name in data}
            for shift in range(4) if len(words) else ():
                whole = (len(data) - shift) // 4
                if whole <= 0:
                    continue
                values = np.frombuffer(data, np.uint32, whole, shift)
                place = np.searchsorted(words, values).clip(max=len(words) - 1)
                for hit in np.flatnonzero(words[place] == values).tolist():
                    first = place[hit]
                    while first < len(words) and words[first] == values[hit]:
                        start = shift + 4 * hit - 4 * int(places[first])
                        owner = int(owners[first])
                        if start >= 0 and data[start : start + len(patterns[owner])] == patterns[owner]:
                            found_keys.add(owner)
                        first += 1
    return found_keys, found_names


def _anchors(keys: Float32Array) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint32]], Int64Array, Int64Array]:
    """One word of 32 bits of each key by which it is found, ascending; its place in the key; the key's row.

    That of the value nearest to the median of those that are not 0: features after a ReLU hold many zeros and may hold
    one largest value many times.
    """
    size = np.abs(keys.astype(np.float64))
    middle = np.array([np.median(row[row > 0]) if (row > 0).any() else 0.0 for row in size])
    places = np.abs(np.where(size > 0, size, np.inf) - middle[:, None]).argmin(axis=1).astype(np.int64)
    rows = np.arange(len(keys), dtype=np.int64)
    words = np.ascontiguousarray(keys).view(np.uint32)[rows, places] if len(keys) else np.zeros(0, np.uint32)
    order = np.argsort(words, kind="stable")
    return words[order], places[order], rows[order]


MAX_BYTES = 2**30
"""Bytes of keys up to which answers are compared: the rows of the second memory are in RAM until they are committed."""
N_QUERIES = 100
"""Queries at most, and neighbours of each."""


@dataclass(frozen=True)
class Comparison:
    """`queries` that were asked of both memories, and whether all answers are bitwise `equal`."""

    queries: int
    equal: bool


def compare_with_rebuilt(memory: MemoryStore, gone: Float32Array) -> Comparison | None:
    """Ask a memory, and a new one made of its visible rows alone, for the nearest rows; None beyond `MAX_BYTES`.

    Queries are the keys `gone` (N, D), then stored ones at even steps. Compared are ids, scores, classes, weights and
    tasks of the nearest rows by exact search: whatever votes over them is equal too. What is staged is not looked at.
    """
    here = Memory.open(memory.path)
    labels = here.labels()
    if 4 * here.dim * len(labels.id) > MAX_BYTES:
        return None
    searchable = labels.id[labels.weight > 0]
    if len(searchable) == 0:
        return Comparison(0, True)
    asked = gone[:N_QUERIES]
    steps = np.linspace(0, len(searchable) - 1, N_QUERIES - len(asked)).astype(np.int64)
    queries = np.concatenate([asked, here.keys(np.unique(searchable[steps]))])
    exactly = SearchOptions(index="exact")
    here.configure(exactly)
    with tempfile.TemporaryDirectory() as folder:
        path, salt = Path(folder) / "memory", here._about.salt
        with Memory._create(path, here.dim, here.fingerprint, None, salt) as never:
            never.merge(here)
            never.commit(int(labels.task.max()))
            never.configure(exactly)
            found, want = (m.search(queries, N_QUERIES) for m in (here, never))
    same = np.array_equal(found.id, labels.id[want.id]) and all(
        getattr(found, name).tobytes() == getattr(want, name).tobytes()
        for name in ("score", "class_id", "weight", "task")
    )
    return Comparison(len(queries), same)
