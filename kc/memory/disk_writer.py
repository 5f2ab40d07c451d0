"""The writing half of a memory: stage, commit, roll back, retire, erase, reweight, relabel."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.memory.disk_reader import Reader, same_encoder
from kc.memory.store import exchange, files
from kc.memory.store import manifest as manifests
from kc.memory.store import upkeep as maintain
from kc.memory.store.info import MemoryInfo
from kc.memory.store.inputs import (
    Ids,
    Names,
    check_classes,
    check_criteria,
    check_task,
    check_weights,
    check_writer,
    distinct_ids,
    is_older,
)
from kc.memory.store.lock import WriterLock
from kc.memory.store.manifest import MemoryManifest, VersionInfo
from kc.memory.store.segments import room_for_deltas, write_delta
from kc.memory.store.staging import Staging, as_table
from kc.memory.store.table import Table
from kc.types import Int64Array, Rows


class Writer(Reader):
    """Changes of the memory in `root`. Every method raises RunError unless a writer's lock is held."""

    def __init__(self, root: Path, manifest: MemoryManifest, lock: WriterLock | None) -> None:
        super().__init__(root, manifest)
        self._lock = lock
        self._pid = os.getpid()
        self._staging = Staging(manifest.dim)

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(self, rows: Rows, task: int, fingerprint: str | None = None) -> int:
        """Stage rows in RAM; they are searched from the next `commit` on. Returns how many were new.

        A row whose key (sample_id, segment) is staged or visible already is skipped; one that was retired may come
        back and gets a new id. Raises ValueError for a wrong shape, a class or task id below 0, keys that are not unit
        vectors, weights below 0 or not finite; FingerprintError for another encoder.
        """
        self._writer()
        same_encoder(self.path, self.fingerprint, fingerprint)
        check_task(task)
        table = as_table(rows, task, self.dim)
        return self._stage([table], exchange.Header(len(rows), self.dim, self.fingerprint), "these rows")

    def _stage(self, tables: Iterable[Table], header: exchange.Header, origin: object) -> int:
        """Stage rows that come from `origin`; returns how many were new."""
        self._writer()
        same_encoder(self.path, self.fingerprint, header.fingerprint)
        fitting = exchange.fitting(tables, header, origin, self.dim, self._manifest.salt, self.path)
        return sum(self._staging.add_table(table, self._view) for table in fitting)

    def commit(self, task: int) -> int:
        """Make the staged rows durable and visible, all or none, and name this state the version of `task`.

        Returns the number of new rows. Repeating it changes nothing. Raises ValueError if rows are staged for a task
        before the newest version's (roll back first), RunError if the disk is full or not writable: then the staged
        rows are kept, the state before stays readable, and the commit can be repeated.
        """
        self._writer()
        newest = self._manifest.versions[-1].task if self._manifest.versions else -1
        n_new = len(self._staging)
        if is_older(task, newest, n_new):
            self._manifest.version(task)
            return 0
        if task == newest and not n_new and self._manifest.versions[-1].seq >= self._manifest.last_change:
            return 0
        seq = self._manifest.number + 1
        with self._writing("commit to"):
            new = self._staging.write(self.path, self._manifest, seq)
            versions = tuple(v for v in self._manifest.versions if v.task != task)
            info = VersionInfo(task=task, seq=seq, rows=len(self) + n_new)
            self._publish(
                replace(
                    self._manifest,
                    number=seq,
                    next_id=self._manifest.next_id + n_new,
                    next_segment=self._manifest.next_segment + len(new),
                    segments=(*self._manifest.segments, *new),
                    versions=(*versions, info),
                ),
                trusted={s.name for s in new},
            )
        self._staging.committed()
        return n_new

    def rollback(self, task: int) -> None:
        """Drop everything committed after the last version of a task <= `task` (all of it if there is none).

        Drops what is staged too. Ids of dropped rows are not used again. A resumed run that replays task t calls
        rollback(t - 1) first.
        """
        self._writer()
        self._staging.clear()
        kept = tuple(v for v in self._manifest.versions if v.task <= task)
        seq = kept[-1].seq if kept else 0
        deltas = tuple(d for d in self._manifest.deltas if d.seq <= seq)
        newer = [s for s in self._manifest.segments if s.added > seq]
        if not newer and (deltas, kept) == (self._manifest.deltas, self._manifest.versions):
            return
        self._staging.forget_stored()
        with self._writing("roll back"):
            columns = self._view().columns
            manifest, new = maintain.without(
                self.path, replace(self._manifest, deltas=deltas), columns, columns.added > seq
            )
            maintain.drop_derived(self.path)
            self._publish(replace(manifest, versions=kept), trusted=new)
            maintain.sweep(self.path, self._manifest)

    def remove(
        self,
        ids: Ids | None = None,
        *,
        class_id: Ids | None = None,
        source: Names | None = None,
        task: Ids | None = None,
        sample_id: Names | None = None,
    ) -> int:
        """Retire the visible rows that meet every criterion given, at once and durably; returns how many.

        Versions committed before still replay them; use `erase` to be rid of their bytes. Staged rows that meet the
        criteria are dropped and counted too. ValueError without a criterion or for an id that was never given out.
        """
        criteria = self._criteria(ids=ids, class_id=class_id, source=source, task=task, sample_id=sample_id)
        view = self._view()
        chosen = view.columns.ids[np.flatnonzero(view.visible & view.match(**criteria))]
        self._change("tombstones", chosen, chosen)
        self._staging.forget_stored()
        return len(chosen) + self._staging.drop(**criteria)

    def erase(
        self,
        ids: Ids | None = None,
        *,
        class_id: Ids | None = None,
        source: Names | None = None,
        task: Ids | None = None,
        sample_id: Names | None = None,
    ) -> int:
        """Remove rows from every version, retired ones too, so that no file holds their bytes; returns how many.

        Segments that hold them are written anew, derived files are dropped, and the old files are gone when this
        returns (a crash before that is finished by the next writer). Classes are those of now.
        """
        criteria = self._criteria(ids=ids, class_id=class_id, source=source, task=task, sample_id=sample_id)
        view = self._view()
        doomed = view.match(**criteria)
        n_rows = int(doomed.sum())
        if n_rows:
            with self._writing("erase from"):
                manifest, new = maintain.without(self.path, self._manifest, view.columns, doomed)
                versions = tuple(
                    replace(v, rows=int((self._view_of(v.seq).visible & ~doomed).sum())) for v in manifest.versions
                )
                # Before the commit: the next writer sweeps segments that nothing names, but not derived files.
                maintain.drop_derived(self.path)
                self._publish(replace(manifest, versions=versions), trusted=new)
                self._staging.forget_stored()
                maintain.sweep(self.path, self._manifest)
        return n_rows + self._staging.drop(**criteria)

    def reweight(self, ids: Ids, weights: npt.ArrayLike) -> None:
        """Give visible rows new vote weights (>= 0; 0 hides a row from search), at once and durably."""
        wanted = self._visible_ids(ids)
        self._change("weights", wanted, check_weights(weights, len(wanted)))

    def relabel(self, ids: Ids, class_ids: npt.ArrayLike) -> None:
        """Give visible rows new classes, at once and durably; versions committed before keep the old ones."""
        wanted = self._visible_ids(ids)
        self._change("relabels", wanted, check_classes(class_ids, len(wanted)))

    def name_classes(self, names: Mapping[int, str]) -> None:
        """Keep these names of classes beside the rows, in place of what was there, at once and durably."""
        self.describe({**self._manifest.extra, "classes": {str(id_): str(name) for id_, name in names.items()}})

    def update_info(self, info: MemoryInfo) -> None:
        """Replace what the memory says of itself (the names of its classes), at once and durably, all or none."""
        self._writer()
        if info != self._manifest.info:
            with self._writing("change"):
                self._publish(replace(self._manifest, number=self._manifest.number + 1, info=info))

    def describe(self, extra: dict[str, Any]) -> None:
        """Replace `extra`, the caller's JSON values (names of classes, settings), at once and durably, all or none."""
        self._writer()
        if extra != self._manifest.extra:
            with self._writing("change"):
                self._publish(replace(self._manifest, number=self._manifest.number + 1, extra=dict(extra)))

    @property
    def _writes(self) -> bool:
        return self._lock is not None and os.getpid() == self._pid

    def derived(self, kind: str, at: int | None = None) -> Path | None:
        """The folder of this state; those of this kind and of states that can no longer be asked for are removed."""
        if not self._writes:
            return None
        folder = self.path / maintain.DERIVED / kind
        kept = {f"{seq:06d}" for seq in (self._manifest.number, *(v.seq for v in self._manifest.versions))}
        for path in folder.glob("*"):
            if path.name not in kept:
                files.remove(path)
        return folder / f"{self._seq(at):06d}"

    def _writer(self) -> None:
        """RunError unless this memory was opened for writing, by this process."""
        check_writer(self.path, self._lock is not None, self._pid)

    def _criteria(self, **given: Any) -> dict[str, Any]:
        """The criteria that were given, as they are stored."""
        self._writer()
        return check_criteria(given, self._manifest.salt, self._manifest.next_id)

    def _visible_ids(self, ids: Ids) -> Int64Array:
        """`ids`, each once and visible now; ValueError otherwise."""
        self._writer()
        wanted = distinct_ids(ids)
        hidden = ~self._view().visible[self._positions(wanted)]
        if hidden.any():
            raise ValueError(f"row {int(wanted[hidden][0])} is retired")
        return wanted

    def _change(self, kind: str, ids: Int64Array, values: npt.NDArray[Any]) -> None:
        """Commit one delta (none for no ids)."""
        if len(ids) == 0:
            return
        seq, view = self._manifest.number + 1, self._view()
        room = room_for_deltas(self._manifest.deltas)
        with self._writing("change"):
            delta = write_delta(self.path, seq, kind, ids, values, f"{seq:06d}-{kind}.npy", room)
            self._publish(replace(self._manifest, number=seq, deltas=(*self._manifest.deltas, delta)))
            self._views[seq] = view.then(seq, kind, ids, values)

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """On failure: remove the new files that nothing names, and say what to free."""
        with files.translated(self.path, what):
            try:
                yield
            except BaseException:
                with contextlib.suppress(OSError):  # the first error is the one to tell; the next writer sweeps again
                    maintain.sweep(self.path, self._manifest)
                raise

    def _publish(self, manifest: MemoryManifest, trusted: Iterable[str] = ()) -> None:
        """Make `manifest` the state of the folder, then of this object."""
        try:
            manifests.publish(self.path, manifest)
        except BaseException:
            # An error after the rename (its fsync failed): the folder shows the new state, so this object must too.
            if manifests.load(self.path).number == manifest.number:
                self._use(manifest, trusted)
            raise
        self._use(manifest, trusted)
