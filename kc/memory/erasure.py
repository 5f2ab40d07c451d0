"""Proof that erased rows are gone: no file holds them, and the memory answers as if it had been built without them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kc.errors import KcError
from kc.files import temporary_folder
from kc.memory.base import MemoryStore
from kc.memory.disk import Memory
from kc.memory.search.planner import SearchOptions
from kc.memory.store import manifest as manifests
from kc.memory.store.inputs import Ids, as_ids
from kc.memory.store.lock import LOCK_NAME
from kc.memory.store.segments import MAX_ROWS, Segment, read_delta
from kc.memory.store.table import Table
from kc.memory.store.upkeep import DERIVED
from kc.types import Float32Array, Int64Array

READ_BYTES = 1 << 24
"""Bytes of a file that are looked through at once."""

NOT_ERASED = (
    "the encoder: it may have been trained on the image, and what it learned there is in its weights",
    "the images themselves: in the data folder, and what kc fetched, cached or composed of it (KC_CACHE)",
    "copies that kc does not know of: files that were moved, sent or backed up, memories that rows were merged into",
    "what was uploaded to W&B, and the copies that wandb keeps in its own cache",
    "the RAM of processes that have the memory open: from their next answer on they show nothing of the rows",
    "pictures and names of classes in reports, logs and records of runs",
    "blocks of the disk that the file system has freed and not overwritten",
)
"""What erasing rows of a memory does not reach."""


@dataclass(frozen=True)
class Traces:
    """What must not be found: `ids` (N,) int64, `keys` (N, D) float32 (none where only ids are known) but for `twins`,
    the bytes of keys that rows which stay have too, and `names` of samples, sources and classes that nothing which
    stays has. `samples`: of all these rows."""

    ids: Int64Array
    keys: Float32Array
    names: tuple[str, ...] = ()
    samples: frozenset[str] = frozenset()
    twins: frozenset[bytes] = frozenset()


@dataclass(frozen=True)
class Absence:
    """What was looked through, and where something was `found` (a sentence each; empty: the rows are gone)."""

    files: int
    bytes: int
    found: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether nothing was found."""
        return not self.found


def traces(memory: MemoryStore, ids: Ids, class_id: int | None = None) -> Traces:
    """What stored rows, and the name of `class_id`, leave in files, to be taken before they are erased.

    A key or a name counts only where nothing that stays, visible or retired, has the same. ValueError names an id that
    is not stored.
    """
    wanted = as_ids(ids)
    rows = memory.rows_of(wanted)
    own = () if class_id is None else (memory.class_names[class_id],)
    return _traces(memory, wanted, memory.keys(wanted), rows.sample_id, {*rows.source, *own}, class_id)


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
    samples = [name for t in chosen for name in t.sample.used().names]
    return _traces(memory, wanted, keys, samples, {name for t in chosen for name in t.source.used().names})


def _traces(
    memory: MemoryStore,
    ids: Int64Array,
    keys: Float32Array,
    samples: Iterable[str],
    others: set[str],
    class_id: int | None = None,
) -> Traces:
    stays = np.setdiff1d(memory.ids(retired=True), ids)
    rows, samples = memory.rows_of(stays), frozenset(samples)
    kept = {"", *rows.sample_id, *rows.source, *(name for i, name in memory.class_names.items() if i != class_id)}
    wanted, twins = {key.tobytes() for key in keys}, set[bytes]()
    for first in range(0, len(stays), MAX_ROWS):
        twins |= wanted.intersection(key.tobytes() for key in memory.keys(stays[first : first + MAX_ROWS]))
    return Traces(
        ids, keys.reshape(-1, memory.dim), tuple(sorted({*samples, *others} - kept)), samples, frozenset(twins)
    )


def prove_absent(root: str | Path, gone: Traces) -> Absence:
    """Look for rows in every file under the memory `root`, whatever its name: segments, deltas, caches, leftovers.

    Keys are looked for as their bytes at any offset, names as they stand in the store (JSON strings; in a manifest:
    the names of its classes), ids among those of every segment and every change. Raises CorruptMemoryError for a file
    that cannot be read as what it is.
    """
    folder, seeker = Path(root), Seeker(gone)
    found = list(_ids_left(folder, gone.ids))
    n_files = n_bytes = 0
    for path in files_below(folder):
        relative = path.relative_to(folder)
        n_files, n_bytes = n_files + 1, n_bytes + path.stat().st_size
        # The lock and the descriptions of indexes have words of their own, and never a name.
        nameless = relative.name == LOCK_NAME or (relative.parts[0] == DERIVED and relative.suffix == ".json")
        keys, left = seeker.look(path, names=not nameless)
        if keys:
            found.append(f"{relative} holds the key of {len(keys)} of the rows ({', '.join(map(str, keys[:10]))})")
        if left:
            found.append(f"{relative} holds {len(left)} of the names ({', '.join(map(repr, left[:10]))})")
    return Absence(n_files, n_bytes, tuple(found))


def files_below(*folders: Path) -> Iterator[Path]:
    """Regular files below folders, sorted in each; links are not followed."""
    for folder in folders:
        if not folder.is_symlink():
            yield from sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _ids_left(root: Path, ids: Int64Array) -> Iterator[str]:
    manifest = manifests.load(root)
    for info in manifest.segments:
        left = np.intersect1d(Segment(root, info, manifest.dim).ids, ids)
        if len(left):
            yield f"segment {info.name} holds {len(left)} of the ids ({', '.join(map(str, left[:10]))})"
    for delta in manifest.deltas:
        left = np.intersect1d(read_delta(root, delta)[0], ids)
        if len(left):
            yield f"change {delta.name} names {len(left)} of the ids ({', '.join(map(str, left[:10]))})"


class Seeker:
    """Looks for what rows leave, in one file after the other."""

    def __init__(self, gone: Traces) -> None:
        alone = [i for i, key in enumerate(gone.keys) if key.tobytes() not in gone.twins]
        self._ids, keys = gone.ids[alone], np.ascontiguousarray(gone.keys[alone])
        self._keys, self._anchors = [key.tobytes() for key in keys], _anchors(keys)
        # As the store writes them, and as another writer of JSON would.
        self._names = sorted(
            {
                (name, json.dumps(name, ensure_ascii=ascii_only).encode(errors="surrogatepass"))
                for name in gone.names
                for ascii_only in (True, False)
            }
        )
        self._longest = max([len(p) for p in (*self._keys, *(p for _, p in self._names))], default=1)

    def look(self, path: Path, names: bool = True) -> tuple[list[int], list[str]]:
        """Ids of the rows whose keys a file holds, and which of the names."""
        wanted = self._names if names else []
        found_keys: set[int] = set()
        found: set[str] = set()
        with path.open("rb") as file:
            if wanted and (own := _manifest_names(path, file)) is not None:
                return [], sorted(own & {name for name, _ in wanted})
            data = b""
            while new := file.read(READ_BYTES):
                # The end of the last chunk stays in front, so that what lies across a border is seen whole.
                data = data[-self._longest :] + new
                found |= {name for name, pattern in wanted if _quoted(pattern, data)}
                found_keys |= self._keys_in(data)
        return self._ids[sorted(found_keys)].tolist(), sorted(found)

    def _keys_in(self, data: bytes) -> set[int]:
        found: set[int] = set()
        words, places, owners = self._anchors
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
                    key = self._keys[int(owners[first])]
                    if start >= 0 and data[start : start + len(key)] == key:
                        found.add(int(owners[first]))
                    first += 1
        return found


def _quoted(pattern: bytes, data: bytes) -> bool:
    """Whether a string of JSON stands in `data`: not within another, where its first quote is escaped."""
    place = data.find(pattern)
    while place > 0 and data[place - 1] == ord("\\"):
        place = data.find(pattern, place + 1)
    return place >= 0


def _manifest_names(path: Path, file: BinaryIO) -> set[str] | None:
    """Names of classes in a manifest, whose own words are no names; None for another file."""
    begins = file.read(len(manifests.MAGIC)) == manifests.MAGIC.encode()
    file.seek(0)
    if not begins:
        return None
    try:
        info = manifests.parse(path).info
    except KcError:  # a copy that is not whole is a file as any other
        return None
    return set() if info is None else set(info.class_names.values())


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
    with temporary_folder() as folder:
        path, salt = folder / "memory", here._about.salt
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
