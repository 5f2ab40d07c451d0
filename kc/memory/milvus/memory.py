"""The same memory in Milvus: for rows that one machine no longer carries, and for tests of the contract in a folder.

What it promises as `kc.memory.disk.Memory` does: rows are stored once by (sample, segment), a commit shows all of its
rows or none (one entity, written last, says which commit is shown; what is beyond it is swept by the next writer), a
version is a filter and replays, an encoder's fingerprint is compared, ties go to the lowest id.

What it cannot promise:
- One writer. In a local folder a lock sees to it. Milvus has no such thing: on a cluster a second writer is refused
  once the other has committed, but changes that two make at the same moment can mix. Have one.
- Erasing at once. Rows are gone from every answer when `erase` returns, but Milvus drops their bytes when it compacts
  and collects its garbage, and copies of its object storage are its operator's. An `erase` that is interrupted has
  erased a part: repeat it.
- Exact search by every index. FLAT is exact up to 16,384 rows of one scene (all that Milvus returns); any other is as
  good as its parameters. What Milvus returns is scored again in float64 from the stored keys.
- Every kill survived in a folder of milvus-lite: what was found is mended (docs/memory-store.md), but it is for tests.
- Checksums: what is damaged in Milvus's storage is for Milvus to find, so there is no `verify` and no `repair`.

A new class or weight stores the row again, key included, until `compact(history=False)`. `diff` and `derived` (files
computed from a version) belong to the store on disk. Milvus 2.6.2 or later; on a cluster set KC_MILVUS_URI, and
KC_MILVUS_TOKEN where it asks who you are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kc.errors import RunError
from kc.memory.disk_reader import Reader, same_encoder
from kc.memory.milvus.client import URI, Store
from kc.memory.milvus.reader import MilvusReader
from kc.memory.milvus.rows import Header, visible
from kc.memory.milvus.writer import MilvusWriter
from kc.memory.store import exchange, files
from kc.memory.store import upkeep as maintain
from kc.memory.store.info import MemoryInfo
from kc.memory.store.inputs import check_kind, new_salt
from kc.memory.store.lock import WriterLock


class MilvusMemory(MilvusWriter):
    """`kc.memory.disk.Memory` over Milvus; the module says where it promises less.

    `path` is a folder (milvus-lite), or with KC_MILVUS_URI set the memory's name on that cluster.
    """

    # -- opening ----------------------------------------------------------------------------------------------------

    def __init__(self, path: Path, store: Store, lock: WriterLock | None, write: bool) -> None:
        super().__init__(path, store, write)
        self._lock = lock

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        dim: int,
        fingerprint: str,
        info: MemoryInfo | None = None,
        extra: dict[str, Any] | None = None,
        anonymous: bool = False,
        index: dict[str, Any] | None = None,
    ) -> MilvusMemory:
        """A new empty memory, open for writing; arguments as in `Memory.create`.

        index: `index_type` and `params` of Milvus's vector index, by default FLAT: exact.
        Raises RunError if there is a memory already or Milvus cannot be reached, MissingExtraError without pymilvus.
        """
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        salt = new_salt() if anonymous else ""
        header = Header(dim, fingerprint, salt, info, dict(extra or {}), dict(index or {"index_type": "FLAT"}))
        root = Path(path)
        with _store(root, write=True, new=True) as (store, lock):
            taken = store.names()
            if taken:
                raise RunError(f"{root} already holds a memory (collections {', '.join(taken)} in Milvus)")
            store.create(header)
            return cls(root, store, lock, write=True)

    @classmethod
    def open(cls, path: str | Path, fingerprint: str | None = None, write: bool = False) -> MilvusMemory:
        """Open a memory at its newest commit, for reading unless `write`.

        Raises RunError where there is none, FingerprintError if it holds keys of another encoder than `fingerprint`,
        MemoryLockedError if it is local and has a writer.
        """
        root = Path(path)
        if not Store.exists(root):
            raise RunError(f"no memory in {root}: check the path")
        with _store(root, write) as (store, lock):
            if len(store.names()) < 2:
                raise RunError(f"no memory {root} in Milvus at {store.uri}: check the name")
            store.load()
            memory = cls(root, store, lock, write)
            same_encoder(root, memory.fingerprint, fingerprint)
            return memory

    @classmethod
    def open_or_create(
        cls,
        path: str | Path,
        *,
        dim: int,
        fingerprint: str,
        info: MemoryInfo | None = None,
        extra: dict[str, Any] | None = None,
        anonymous: bool = False,
        write: bool = True,
    ) -> MilvusMemory:
        """The memory at `path`, made if it does not exist.

        ValueError if it holds keys of another size, or is anonymous and should not be (or the other way round).
        """
        root = Path(path)
        if write and not _made(root):
            return cls.create(root, dim=dim, fingerprint=fingerprint, info=info, extra=extra, anonymous=anonymous)
        memory = cls.open(root, fingerprint=fingerprint, write=write)
        try:
            check_kind(root, (memory.dim, memory.anonymous), dim, anonymous)
        except BaseException:
            memory.close()
            raise
        return memory

    def close(self) -> None:
        """Drop what is staged and not committed, give the lock back and leave. A second call does nothing."""
        self._staging.clear()
        self._write = False
        self._store.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process is a reader of what is committed; on a cluster only: a folder has one process."""
        return _reopen, (self.path, self.fingerprint, self._params)

    # -- upkeep -----------------------------------------------------------------------------------------------------

    def merge(self, other: Reader | MilvusReader) -> int:
        """Stage the visible rows of another memory, on disk or in Milvus, as `Memory.merge` does."""
        salt = other._header.salt if isinstance(other, MilvusReader) else other._manifest.salt
        header = exchange.Header(len(other), other.dim, other.fingerprint, salt)
        return self._stage(other.tables(), header, other.path)

    def export(self, path: str | Path, at: int | None = None) -> int:
        """Write the visible rows, now or at the version of task `at`, to one file, as `Memory.export` does."""
        n_rows = self._store.count(visible(self._seq(at)))
        exchange.write(
            Path(path),
            exchange.Header(n_rows, self.dim, self.fingerprint, self._header.salt, self._header.info),
            self.tables(at),
        )
        return n_rows

    def import_rows(self, path: str | Path) -> int:
        """Stage the rows of an exported file, all or none, as `Memory.import_rows` does."""
        header, tables = exchange.read(Path(path))
        return self._stage(tables, header, path)


@contextlib.contextmanager
def _store(root: Path, write: bool, new: bool = False) -> Iterator[tuple[Store, WriterLock | None]]:
    """The store at `root`, and for a writer of a local folder its lock; both are given back on failure."""
    with contextlib.ExitStack() as undo:
        lock = None
        if write and not os.environ.get(URI):
            with files.translated(root, "create" if new else "open for writing"):
                if new:
                    if Store.exists(root):
                        raise RunError(f"{root} already holds a memory: open it, or choose another path")
                    root.mkdir(parents=True, exist_ok=True)
                    maintain.check_unused(root)
                lock = WriterLock(root)
                undo.callback(lock.release)
        store = Store(root)
        undo.callback(store.close)
        yield store, lock
        undo.pop_all()


def _made(root: Path) -> bool:
    """Whether there is a memory, whole or not."""
    if not Store.exists(root):
        return False
    with contextlib.closing(Store(root)) as store:
        return bool(store.names())


def _reopen(path: Path, fingerprint: str, params: dict[str, Any]) -> MilvusMemory:
    memory = MilvusMemory.open(path, fingerprint)
    memory.configure(**params)
    return memory
