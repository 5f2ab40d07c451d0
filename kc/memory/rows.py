"""The retrieval memory: rows on disk, committed task by task, searched exactly, forgotten on request."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kc.errors import RunError
from kc.memory import files, maintain
from kc.memory import manifest as manifests
from kc.memory.lock import WriterLock
from kc.memory.manifest import MemoryManifest
from kc.memory.plan import SearchOptions
from kc.memory.reader import same_encoder
from kc.memory.writer import Writer


class Memory(Writer):
    """Rows of unit vectors on disk, each with class, weight, sample, segment, source and task.

    A commit is all or nothing and names a version; a version is a predicate over immutable files, so
    `search(at=task)` replays the memory as it was then. One writer at a time, any number of readers; a reader keeps
    seeing the state it opened. Use `create`, `open` or `open_or_create`, and close it (or use `with`).
    """

    # -- opening ----------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | Path, *, dim: int, fingerprint: str, extra: dict[str, Any] | None = None) -> Memory:
        """A new empty memory, open for writing. `extra`: JSON values kept beside it (class names, settings).

        Raises RunError if `path` holds a memory or anything else, or cannot be written.
        """
        root = Path(path)
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        with files.translated(root, "create"):
            root.mkdir(parents=True, exist_ok=True)
            maintain.check_unused(root)  # before the lock file is left in a folder that is not ours ...
            lock = WriterLock(root)
            try:
                maintain.check_unused(root)  # ... and after: another writer may have been faster
                manifest = MemoryManifest(number=0, fingerprint=fingerprint, dim=dim, extra=dict(extra or {}))
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
        same_encoder(root, manifest, fingerprint)
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
        cls, path: str | Path, *, dim: int, fingerprint: str, extra: dict[str, Any] | None = None, write: bool = True
    ) -> Memory:
        """The memory at `path`, made if it does not exist. ValueError if it holds keys of another size."""
        root = Path(path)
        if write and not (root / manifests.POINTER).exists():
            return cls.create(root, dim=dim, fingerprint=fingerprint, extra=extra)
        memory = cls.open(root, fingerprint=fingerprint, write=write)
        if memory.dim != dim:
            memory.close()
            raise ValueError(f"{root} holds keys of {memory.dim} values, asked for {dim}")
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

    # -- health -----------------------------------------------------------------------------------------------------

    @classmethod
    def repair(cls, path: str | Path) -> list[str]:
        """Drop what no manifest names; if the pointer to the manifest is broken, point at the newest whole manifest.

        Returns what was done, a sentence each. Never drops what the manifest names: damaged data needs a copy.
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
