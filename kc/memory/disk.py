"""The retrieval memory: rows on disk, committed task by task, searched exactly, forgotten on request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kc.errors import RunError
from kc.memory.disk_reader import Reader, same_encoder
from kc.memory.disk_writer import Writer
from kc.memory.search.planner import SearchOptions
from kc.memory.store import exchange, files
from kc.memory.store import manifest as manifests
from kc.memory.store import upkeep as maintain
from kc.memory.store.info import MemoryInfo
from kc.memory.store.inputs import check_kind, new_salt
from kc.memory.store.lock import WriterLock
from kc.memory.store.manifest import MemoryManifest, VersionInfo
from kc.memory.store.upkeep import compacted


class Memory(Writer):
    """Rows of unit vectors on disk, each with class, weight, sample, segment, source and task.

    A commit is all or nothing and names a version; a version is a predicate over immutable files, so
    `search(at=task)` replays the memory as it was then. One writer at a time, any number of readers; a reader keeps
    seeing the state it opened. Use `create`, `open` or `open_or_create`, and close it (or use `with`).
    """

    # -- opening ----------------------------------------------------------------------------------------------------

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
    ) -> Memory:
        """A new empty memory, open for writing, of keys of `dim` values that the encoder `fingerprint` makes.

        info: how its keys are made and how it is asked; whatever encodes images for the memory later reads it, so only
        a memory of vectors that nothing will be encoded for can do without. extra: further JSON values.
        anonymous: names of samples and sources are stored as salted hashes only. They are still given in full to `add`,
        `remove`, `ids` and `search`; `rows_of` returns the hashes. `kc.memory.store.inputs` says what that protects.

        Raises RunError if `path` holds a memory or anything else, or cannot be written.
        """
        return cls._create(Path(path), dim, fingerprint, info, extra, new_salt() if anonymous else "")

    @classmethod
    def _create(
        cls, root: Path, dim: int, fingerprint: str, info: MemoryInfo | None, extra: dict[str, Any] | None, salt: str
    ) -> Memory:
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        with files.translated(root, "create"):
            root.mkdir(parents=True, exist_ok=True)
            maintain.check_unused(root)  # before the lock file is left in a folder that is not ours ...
            lock = WriterLock(root)
            try:
                maintain.check_unused(root)  # ... and after: another writer may have been faster
                manifest = MemoryManifest(
                    number=0, fingerprint=fingerprint, dim=dim, info=info, extra=dict(extra or {}), salt=salt
                )
                manifests.publish(root, manifest)
                maintain.sweep(root, manifest)
            except BaseException:
                lock.release()
                raise
        return cls(root, manifest, lock)

    @classmethod
    def open(cls, path: str | Path, fingerprint: str | None = None, write: bool = False) -> Memory:
        """Open a memory at its newest commit, for reading unless `write`. Takes the same time at any size.

        Raises RunError where there is none, FingerprintError if it holds keys of another encoder than `fingerprint`,
        MemoryLockedError if it has a writer, CorruptMemoryError naming the file that does not fit.
        """
        root = Path(path)
        manifest = manifests.load(root)
        same_encoder(root, manifest.fingerprint, fingerprint)
        if not write:
            return cls(root, manifest, None)
        with files.translated(root, "open for writing"):
            lock = WriterLock(root)
            try:
                manifest = manifests.load(root)  # again: the last writer may have committed before we got the lock
                maintain.sweep(root, manifest)
            except BaseException:
                lock.release()
                raise
        return cls(root, manifest, lock)

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
    ) -> Memory:
        """The memory at `path`, made as `create` does if it does not exist.

        ValueError if it holds keys of another size, or is anonymous and should not be (or the other way round).
        """
        root = Path(path)
        if write and not (root / manifests.NAME).exists():
            return cls.create(root, dim=dim, fingerprint=fingerprint, info=info, extra=extra, anonymous=anonymous)
        memory = cls.open(root, fingerprint=fingerprint, write=write)
        try:
            check_kind(root, (memory.dim, memory.anonymous), dim, anonymous)
        except BaseException:
            memory.close()
            raise
        return memory

    def close(self) -> None:
        """Drop what is staged and not committed, and give the lock back. A second call does nothing."""
        self._staging.clear()
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
        """A copy in another process (a spawned DataLoader worker) is a reader of what is committed."""
        return _reopen, (self.path, self.fingerprint, self.options)

    # -- upkeep -----------------------------------------------------------------------------------------------------

    def merge(self, other: Reader) -> int:
        """Stage the visible rows of another memory, in its order, with their class, weight, source and task of now.

        Returns how many were new: a row whose key (sample_id, segment) is stored or staged is skipped, so repeating it
        adds nothing. Call `commit` then; until it the new rows are held in RAM. Raises FingerprintError or ValueError
        if the other memory holds keys of another encoder or size, or names under a salt that this one does not know.
        """
        header = exchange.Header(len(other), other.dim, other.fingerprint, other._manifest.salt)
        return self._stage(other.tables(), header, other.path)

    def export(self, path: str | Path, at: int | None = None) -> int:
        """Write the visible rows, now or at the version of task `at`, to one .parquet or .npz file; returns how many.

        Versions and retired rows are not exported, and no later `erase` reaches that file. That of an anonymous memory
        holds its salt, so that its rows are recognised elsewhere. Raises what `exchange.write` does.
        """
        manifest = self._manifest
        header = exchange.Header(self._view(at).n_visible, self.dim, self.fingerprint, manifest.salt, manifest.info)
        exchange.write(Path(path), header, self.tables(at))
        return header.rows

    def import_rows(self, path: str | Path) -> int:
        """Stage the rows of an exported file, all or none, as `merge` does; returns how many were new.

        Raises DataError for a file that is not a whole export, otherwise what `merge` does.
        """
        header, tables = exchange.read(Path(path))
        return self._stage(tables, header, path)

    @classmethod
    def create_from(cls, path: str | Path, file: str | Path) -> Memory:
        """A new memory that holds the rows of an exported file, committed as the version of their newest task."""
        header, tables = exchange.read(Path(file))
        memory = cls._create(Path(path), header.dim, header.fingerprint, header.info, None, header.salt)
        try:
            memory._stage(tables, header, file)
            memory.commit(max([0, *(int(t.task.max()) for t in tables if len(t))]))
        except BaseException:
            memory.close()
            raise
        return memory

    def compact(self, history: bool = True) -> bool:
        """Join small segments and deltas; every version gives the same answers as before, bit by bit.

        Rows that no version and not the present shows are dropped, which is not erasing: use `erase` where no byte may
        stay behind. history=False keeps the present only, as the version of the newest task, and drops every row
        retired so far. Returns whether anything was rewritten. What is staged stays staged.
        """
        self._writer()
        now = self._view()
        versions, last = self._manifest.versions, self._manifest.last_change
        if not history and versions:
            newest = versions[-1]
            versions = (VersionInfo(task=newest.task, seq=max(last, newest.seq), rows=now.n_visible),)
        seqs = sorted({v.seq for v in versions} | {last})
        with self._writing("compact"):
            kept = replace(self._manifest, versions=versions)
            manifest, new = compacted(self.path, kept, now.columns, map(self._view_of, seqs))
            if manifest == self._manifest:
                return False
            maintain.drop_derived(self.path)
            self._publish(replace(manifest, number=self._manifest.number + 1), trusted=new)
            maintain.sweep(self.path, self._manifest)
        return True

    # -- health -----------------------------------------------------------------------------------------------------

    @classmethod
    def repair(cls, path: str | Path) -> list[str]:
        """Drop what the manifest does not name; returns what was done, a sentence each.

        Never drops what the manifest names: damaged data, or a damaged manifest, needs a copy (CorruptMemoryError).
        """
        root = Path(path)
        if not root.is_dir():
            raise RunError(f"no memory in {root}: check the path")
        with files.translated(root, "repair"):
            lock = WriterLock(root)
            try:
                return maintain.repair(root)
            finally:
                lock.release()


def _reopen(path: Path, fingerprint: str, options: SearchOptions) -> Memory:
    memory = Memory.open(path, fingerprint)
    memory.configure(options)
    return memory
