"""The retrieval memory on disk: rows committed task by task, searched exactly, forgotten on request."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.errors import RunError
from kc.memory.base import MemoryStore
from kc.memory.disk_reader import DiskReader
from kc.memory.reader import check_encoder
from kc.memory.store import exchange, files, upkeep
from kc.memory.store import manifest as manifests
from kc.memory.store.info import MemoryInfo
from kc.memory.store.lock import WriterLock
from kc.memory.store.manifest import DeltaInfo, MemoryManifest, VersionInfo
from kc.memory.store.segments import room_for_deltas, write_delta
from kc.memory.store.table import Table
from kc.types import Int64Array

_KINDS = {"weight": "weights", "class_id": "relabels"}
"""Column -> kind of delta that changes it."""


class Memory(DiskReader, MemoryStore):
    """`MemoryStore` in a folder of immutable files, which a manifest names."""

    def __init__(
        self, root: Path, manifest: MemoryManifest, lock: WriterLock | None, seen: tuple[int, ...] | None = None
    ) -> None:
        MemoryStore.__init__(self, root, manifest.dim, lock, write=lock is not None)
        DiskReader.__init__(self, root, manifest, seen or files.identity(root / manifests.NAME))

    # -- opening ----------------------------------------------------------------------------------------------------

    @classmethod
    def _create(cls, root: Path, dim: int, fingerprint: str, info: MemoryInfo | None, salt: str) -> Memory:
        with files.explain_os_errors(root, "create"):
            root.mkdir(parents=True, exist_ok=True)
            upkeep.check_unused(root)  # before the lock file is left in a folder that is not ours ...
            lock = WriterLock(root)
            try:
                upkeep.check_unused(root)  # ... and after: another writer may have been faster
                manifest = MemoryManifest(number=0, fingerprint=fingerprint, dim=dim, info=info, salt=salt)
                manifests.publish(root, manifest)
                upkeep.sweep(root, manifest)
            except BaseException:
                lock.release()
                raise
        return cls(root, manifest, lock)

    @classmethod
    def open(cls, path: str | Path, fingerprint: str | None = None, write: bool = False) -> Memory:
        root = Path(path)
        seen = files.identity(root / manifests.NAME)
        manifest = manifests.load(root)
        check_encoder(root, manifest.fingerprint, fingerprint)
        if not write:
            return cls(root, manifest, None, seen)
        with files.explain_os_errors(root, "open for writing"):
            lock = WriterLock(root)
            try:
                manifest = manifests.load(root)  # again: the last writer may have committed before we got the lock
                upkeep.sweep(root, manifest)
            except BaseException:
                lock.release()
                raise
        return cls(root, manifest, lock)

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        return (Path(path) / manifests.NAME).exists()

    @property
    def _may_store(self) -> bool:
        return self._write and os.getpid() == self._pid

    @property
    def _settings(self) -> dict[str, Any]:
        return {"options": self.options}

    # -- writing ----------------------------------------------------------------------------------------------------

    def _stage_new(self, table: Table) -> int:
        return self._staging.add_table(table, self._view, self._stay, self.background_ids)

    def _changed_since_newest(self) -> bool:
        return self._manifest.versions[-1].seq < self._manifest.last_change

    def _commit(self, task: int) -> None:
        n_new, seq = len(self._staging), self._manifest.number + 1
        with self._writing("commit to"):
            new = self._staging.write(self.path, self._manifest, seq)
            retired = self._still_visible(self._staging.replaced())
            deltas = self._delta("tombstones", retired, retired)
            versions = tuple(v for v in self._manifest.versions if v.task != task)
            info = VersionInfo(task=task, seq=seq, rows=len(self) + n_new - len(retired))
            self._publish(
                replace(
                    self._manifest,
                    number=seq,
                    next_id=self._manifest.next_id + n_new,
                    next_segment=self._manifest.next_segment + len(new),
                    segments=(*self._manifest.segments, *new),
                    deltas=(*self._manifest.deltas, *deltas),
                    versions=(*versions, info),
                ),
                trusted={s.name for s in new},
            )
        self._staging.committed(self._manifest.next_id - n_new)

    def _rollback(self, n_kept: int) -> None:
        kept = self._manifest.versions[:n_kept]
        seq = kept[-1].seq if kept else 0
        deltas = tuple(d for d in self._manifest.deltas if d.seq <= seq)
        newer = [s for s in self._manifest.segments if s.added > seq]
        if not newer and (deltas, kept) == (self._manifest.deltas, self._manifest.versions):
            return
        self._staging.forget_stored()
        with self._writing("roll back"):
            columns = self._view().columns
            manifest, new = upkeep.without_rows(
                self.path, replace(self._manifest, deltas=deltas), columns, columns.added > seq
            )
            files.remove(self.path / upkeep.DERIVED)
            self._publish(replace(manifest, versions=kept), trusted=new)
            upkeep.sweep(self.path, self._manifest)

    def _remove(self, criteria: Mapping[str, Any]) -> int:
        view = self._view()
        chosen = view.columns.ids[np.flatnonzero(view.visible & view.match(criteria))]
        self._add_delta("tombstones", chosen, chosen)
        self._staging.forget_stored()
        return len(chosen)

    def _erase(self, criteria: Mapping[str, Any]) -> int:
        view = self._view()
        erased = view.match(criteria)
        n_rows = int(erased.sum())
        if n_rows:
            with self._writing("erase from"):
                manifest, new = upkeep.without_rows(self.path, self._manifest, view.columns, erased)
                versions = tuple(
                    replace(v, rows=int((self._view_of(v.seq).visible & ~erased).sum())) for v in manifest.versions
                )
                # Before the commit: the next writer sweeps segments that nothing names, but not derived files.
                files.remove(self.path / upkeep.DERIVED)
                self._publish(replace(manifest, versions=versions), trusted=new)
                self._staging.forget_stored()
                upkeep.sweep(self.path, self._manifest)
        return n_rows

    def _change(self, column: str, ids: Int64Array, values: npt.NDArray[Any]) -> None:
        hidden = ~self._view().visible[self._positions(ids)]
        if hidden.any():
            raise ValueError(f"row {int(ids[hidden][0])} is retired")
        self._add_delta(_KINDS[column], ids, values)

    def _update_info(self, info: MemoryInfo) -> None:
        with self._writing("change"):
            self._publish(replace(self._manifest, number=self._manifest.number + 1, info=info))

    def derived(self, kind: str, at: int | None = None) -> Path | None:
        """The folder of this state; those of this kind and of states that can no longer be asked for are removed."""
        if not self._may_store:
            return None
        folder = files.within(self.path, f"{upkeep.DERIVED}/{kind}")
        kept = {f"{seq:06d}" for seq in (self._manifest.number, *(v.seq for v in self._manifest.versions))}
        for path in folder.glob("*"):
            if path.name not in kept:
                files.remove(path)
        return folder / f"{self._seq(at):06d}"

    def _still_visible(self, ids: Int64Array) -> Int64Array:
        if len(ids) == 0:
            return ids
        view = self._view()
        position, known = view.columns.positions(ids)
        return ids[known & view.visible[position]]

    def _delta(self, kind: str, ids: Int64Array, values: npt.NDArray[Any]) -> tuple[DeltaInfo, ...]:
        """What the next commit changes of older rows, written but not yet named; nothing for no ids."""
        if len(ids) == 0:
            return ()
        seq, room = self._manifest.number + 1, room_for_deltas(self._manifest.deltas)
        return (write_delta(self.path, seq, kind, ids, values, f"{seq:06d}-{kind}.npy", room),)

    def _add_delta(self, kind: str, ids: Int64Array, values: npt.NDArray[Any]) -> None:
        """Commit one delta (none for no ids)."""
        seq, view = self._manifest.number + 1, self._view()
        with self._writing("change"):
            if delta := self._delta(kind, ids, values):
                self._publish(replace(self._manifest, number=seq, deltas=(*self._manifest.deltas, *delta)))
                self._views[seq] = view.then(seq, kind, ids, values)

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """On failure: remove the new files that nothing names, and say what to free."""
        self._check_ours()
        with files.explain_os_errors(self.path, what):
            try:
                yield
            except BaseException:
                with contextlib.suppress(OSError):  # the first error is the one to tell; the next writer sweeps again
                    if self._is_ours():
                        upkeep.sweep(self.path, self._manifest)
                raise

    def _is_ours(self) -> bool:
        """Whether no other writer can have come in between: the lock holds, and the manifest is the one read or written
        here last."""
        held = self._lock is not None and self._lock.held()
        return held and (self.current or manifests.load(self.path) == self._manifest)

    def _check_ours(self) -> None:
        if not self._is_ours():
            raise RunError(
                f"{self.path} was changed or replaced by another while this process had it open for writing: nothing "
                "of this change is stored; open it again"
            )

    def _publish(self, manifest: MemoryManifest, trusted: Iterable[str] = ()) -> None:
        """Make `manifest` the state of the folder, then of this object."""
        manifest = replace(manifest, info=self._info or manifest.info)
        self._check_ours()
        try:
            manifests.publish(self.path, manifest)
        except BaseException:
            # An error after the rename (its fsync failed): the folder shows the new state, so this object must too.
            if manifests.load(self.path).number == manifest.number:
                self._use(manifest, trusted)
                self._seen = files.identity(self.path / manifests.NAME)
            raise
        self._use(manifest, trusted)
        self._seen = files.identity(self.path / manifests.NAME)

    # -- upkeep -----------------------------------------------------------------------------------------------------

    @classmethod
    def create_from(cls, path: str | Path, file: str | Path) -> Memory:
        """A new memory that holds the rows of an exported file, committed as the version of their newest task."""
        header, tables = exchange.read(Path(file))
        memory = cls._create(Path(path), header.dim, header.fingerprint, header.info, header.salt)
        try:
            memory._stage(tables, header, file)
            memory.commit(max([0, *(int(t.task.max()) for t in tables if len(t))]))
        except BaseException:
            memory.close()
            raise
        return memory

    def compact(self, history: bool = True) -> bool:
        self._check_writer()
        now = self._view()
        versions, last = self._manifest.versions, self._manifest.last_change
        if not history and versions:
            newest = versions[-1]
            versions = (VersionInfo(task=newest.task, seq=max(last, newest.seq), rows=now.n_visible),)
        pruned = self._manifest.info.options.get("pruning", {}).values() if history and self._manifest.info else ()
        seqs = sorted({v.seq for v in versions} | {last} | {n for p in pruned for n in (p - 1, p) if p <= last})
        with self._writing("compact"):
            kept = replace(self._manifest, versions=versions)
            manifest, new = upkeep.compacted(self.path, kept, now.columns, map(self._view_of, seqs))
            if manifest == self._manifest:
                return False
            files.remove(self.path / upkeep.DERIVED)
            self._publish(replace(manifest, number=self._manifest.number + 1), trusted=new)
            upkeep.sweep(self.path, self._manifest)
        return True

    @classmethod
    def repair(cls, path: str | Path) -> list[str]:
        """Drop what the manifest does not name; returns what was done, a sentence each.

        Never drops what the manifest names: damaged data, or a damaged manifest, needs a copy (CorruptMemoryError).
        """
        root = Path(path)
        if not root.is_dir():
            raise RunError(f"no memory in {root}: check the path")
        with files.explain_os_errors(root, "repair"):
            lock = WriterLock(root)
            try:
                removed = upkeep.sweep(root, manifests.load(root))
                return [f"removed {p.relative_to(root)}: the manifest does not name it" for p in removed]
            finally:
                lock.release()
