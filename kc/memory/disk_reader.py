"""The reading half of a memory: one committed state, its versions, and search over them."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.errors import CorruptMemoryError, FingerprintError, RunError
from kc.memory.search import index_files
from kc.memory.search.exact import Search
from kc.memory.search.planner import Planner, SearchOptions
from kc.memory.store import files
from kc.memory.store import manifest as manifests
from kc.memory.store import upkeep as maintain
from kc.memory.store.info import MemoryInfo
from kc.memory.store.inputs import Ids, Names, as_ids, wanted
from kc.memory.store.manifest import DeltaInfo, MemoryManifest, VersionInfo
from kc.memory.store.segments import Segment, read_delta
from kc.memory.store.table import Table
from kc.memory.store.view import Columns, VersionDiff, View, difference
from kc.types import BoolArray, Float32Array, Int64Array, Neighbours

_CACHED = 4
"""Versions and filters kept ready at once: evaluation alternates between few."""


@dataclass(frozen=True)
class RowTable:
    """What is known of rows, in the order asked: who voted. `visible` is False for retired rows."""

    id: Int64Array
    class_id: Int64Array
    weight: Float32Array
    task: Int64Array
    sample_id: tuple[str, ...]
    segment: Int64Array
    source: tuple[str, ...]
    visible: BoolArray

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True)
class Labels:
    """What rows vote for: `id`, `class_id`, `task` (N,) int64 and `weight` (N,) float32."""

    id: Int64Array
    class_id: Int64Array
    task: Int64Array
    weight: Float32Array


class Reader:
    """One committed state of the memory in `root`. Files are read when first needed, so opening takes the same time
    at any size."""

    def __init__(self, root: Path, manifest: MemoryManifest) -> None:
        self.path = root
        self._segments: dict[str, Segment] = {}
        self._deltas: dict[str, tuple[Int64Array, npt.NDArray[Any]]] = {}
        self._columns: Columns | None = None
        self._planner = Planner(root, SearchOptions())
        self._use(manifest, frozenset())

    @property
    def _writes(self) -> bool:
        """Whether this object may change files of the memory."""
        return False

    @property
    def options(self) -> SearchOptions:
        """How this memory is searched."""
        return self._planner.options

    def configure(self, options: SearchOptions) -> None:
        """Search as `options` say from now on; the default is exact search of small memories, an index for large."""
        self._planner = Planner(self.path, options)
        self._searches.clear()

    def _use(self, manifest: MemoryManifest, trusted: Iterable[str]) -> None:
        """Show this state from now on; `trusted` names segments this process has just written."""
        self._manifest = manifest
        new = set(trusted)
        old = self._segments
        self._segments = {
            info.name: old.get(info.name) or Segment(self.path, info, info.name in new) for info in manifest.segments
        }
        self._deltas = {d.name: self._deltas[d.name] for d in manifest.deltas if d.name in self._deltas}
        if old.keys() != self._segments.keys():
            self._columns = None
        self._views: OrderedDict[int, View] = OrderedDict()
        self._searches: OrderedDict[tuple[object, ...], Search] = OrderedDict()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Tell a memory that was rewritten under a reader (erase, rollback, compact) from a damaged one."""
        try:
            yield
        except (CorruptMemoryError, FileNotFoundError) as error:
            if manifests.load(self.path).number == self._manifest.number:
                raise
            gone = [n for n in self._manifest.named_files() if not (self.path / n).exists()]
            if not gone:
                raise
            raise RunError(
                f"{self.path} was rewritten (erase, rollback, compact) since it was opened: open it again"
            ) from error

    def _read_delta(self, info: DeltaInfo) -> tuple[Int64Array, npt.NDArray[Any]]:
        if info.name not in self._deltas:
            self._deltas[info.name] = read_delta(self.path, info)
        return self._deltas[info.name]

    def _seq(self, at: int | None) -> int:
        return self._manifest.number if at is None else self._manifest.version(at).seq

    def _view(self, at: int | None = None) -> View:
        """What is visible now, or at the version of task `at`."""
        return self._view_of(self._seq(at))

    def _view_of(self, seq: int) -> View:
        view = self._views.get(seq)
        if view is None:
            with self._reading():
                if self._columns is None:
                    self._columns = Columns(list(self._segments.values()))
                view = View(self._columns, self._manifest.deltas, seq, self._read_delta)
            self._views[seq] = view
            if len(self._views) > _CACHED:
                self._views.popitem(last=False)
        return view

    def _positions(self, ids: Int64Array) -> Int64Array:
        position, known = self._view().columns.positions(ids)
        if not known.all():
            raise ValueError(f"the memory stores no row with id {int(ids[~known][0])}")
        return position

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        return self._manifest.dim

    @property
    def fingerprint(self) -> str:
        return self._manifest.fingerprint

    @property
    def info(self) -> MemoryInfo:
        """How the keys were made and how the memory is asked. RunError where it was made without a record of that."""
        return known_info(self.path, self._manifest.info)

    @property
    def extra(self) -> dict[str, Any]:
        return dict(self._manifest.extra)

    @property
    def anonymous(self) -> bool:
        """Whether names of samples and sources are kept as hashes only (see `kc.memory.store.inputs`)."""
        return bool(self._manifest.salt)

    def __len__(self) -> int:
        """Committed rows that are visible now."""
        newest = self._manifest.versions[-1:]
        if newest and newest[0].seq >= self._manifest.last_change:
            return newest[0].rows  # without reading a column
        return self._view().n_visible

    def versions(self) -> tuple[VersionInfo, ...]:
        """One a committed task, oldest first."""
        return self._manifest.versions

    def snapshot(self, task: int) -> VersionInfo:
        """The version of `task`: commit number and visible rows. UnknownNameError if the task was not committed."""
        return self._manifest.version(task)

    def diff(self, a: int, b: int | None = None) -> VersionDiff:
        """What changed from the version of task `a` to that of task `b` (None = now): rows added, retired, relabelled
        and reweighted. UnknownNameError for a task without a version."""
        return difference(self._view(a), self._view(b))

    def stats(self) -> dict[str, Any]:
        """Counts and sizes: rows (visible), rows_total (on disk), bytes (of rows, changes and what is derived from
        them), dim, fingerprint, classes, versions (tasks), plan and its reason, index (its kind, rows, effort and
        measured recall) if one is in use."""
        view = self._view()
        # Without the manifest and the lock, whose sizes depend on the number of commits and on who holds it.
        stored = sum(size for size, _ in self._manifest.named_files().values())
        return {
            "rows": view.n_visible,
            "rows_total": len(view.columns),
            "bytes": stored + files.folder_bytes(self.path / maintain.DERIVED),
            "dim": self.dim,
            "fingerprint": self.fingerprint,
            "classes": len(np.unique(view.class_id[view.visible])),
            "versions": [v.task for v in self._manifest.versions],
            **self._planner.stats(view),
        }

    def ids(
        self,
        *,
        class_id: Ids | None = None,
        source: Names | None = None,
        task: Ids | None = None,
        sample_id: Names | None = None,
        at: int | None = None,
        retired: bool = False,
    ) -> Int64Array:
        """Ids, ascending, of the visible rows that meet every criterion given; with `retired`, of all stored ones."""
        view = self._view(at)
        with self._reading():
            sources, samples = wanted(source, self._manifest.salt), wanted(sample_id, self._manifest.salt)
            match = view.match(class_id=class_id, source=sources, task=task, sample_id=samples)
        return view.columns.ids[match if retired else view.visible & match]

    def labels(self, at: int | None = None) -> Labels:
        """Id, class, task and weight of the visible rows, now or at the version of task `at`, ids ascending."""
        view = self._view(at)
        rows = np.flatnonzero(view.visible)
        columns = view.columns
        return Labels(columns.ids[rows], view.class_id[rows], columns.task[rows], view.weight[rows])

    def derived(self, kind: str, at: int | None = None) -> Path | None:
        """Folder for files of one kind that are computed from the rows of this state; None where they must not be kept.

        Only a writer keeps files: one that a reader leaves behind could outlive an erase.
        """
        return None

    def keys(self, ids: Ids) -> Float32Array:
        """(N, D) float32 keys of rows, in the order asked. ValueError names an id that is not stored."""
        with self._reading():
            return self._view().columns.vectors(self._positions(as_ids(ids)))

    def rows_of(self, ids: Ids) -> RowTable:
        """What is known of rows, in the order asked, retired ones too. ValueError names an id that is not stored."""
        wanted = as_ids(ids)
        view = self._view()
        at = self._positions(wanted)
        columns = view.columns
        with self._reading():
            return RowTable(
                id=wanted,
                class_id=view.class_id[at],
                weight=view.weight[at],
                task=columns.task[at],
                sample_id=columns.names(at, "sample"),
                segment=columns.segment_numbers(at),
                source=columns.names(at, "source"),
                visible=view.visible[at],
            )

    def tables(self, at: int | None = None) -> Iterator[Table]:
        """The visible rows, ids ascending, a segment at a time, with the class and weight they have then."""
        view = self._view(at)
        for number, segment in enumerate(view.columns.segments):
            span = slice(int(view.columns.offsets[number]), int(view.columns.offsets[number + 1]))
            rows = np.flatnonzero(view.visible[span])
            if len(rows):
                with self._reading():
                    table = segment.table(rows)
                yield replace(table, class_id=view.class_id[span][rows], weight=view.weight[span][rows])

    # -- searching --------------------------------------------------------------------------------------------------

    def search(
        self,
        queries: object,
        k: int,
        classes: Iterable[int] | None = None,
        at: int | None = None,
        exclude_ids: object = None,
        *,
        sources: Names | None = None,
        tasks: Iterable[int] | None = None,
        fingerprint: str | None = None,
    ) -> Neighbours:
        """The `k` nearest visible rows of each query, by cosine, nearest first, ties by lowest id.

        queries: (Q, D) float array or CPU tensor, of the memory's encoder (`fingerprint`, if given, is compared).
        classes, sources, tasks: only rows of these. at: the version of that task; classes and weights are those of
        then. exclude_ids: (Q,) int64, a row each query must not find (leave one out; -1 = none).
        Rows of weight 0 are not found. k is clamped to the rows there are (one less where `exclude_ids` takes one).
        Raises EmptyMemoryError if no row is left, ValueError for k < 1 or queries of a wrong shape.
        """
        same_encoder(self.path, self.fingerprint, fingerprint)
        chosen = None if classes is None else np.unique(as_ids(classes))
        names = wanted(sources, self._manifest.salt)
        steps = None if tasks is None else np.unique(as_ids(tasks))
        key = (self._seq(at), *(None if a is None else a.tobytes() for a in (chosen, steps)), names)
        with self._reading():
            search = self._searches.get(key)
            if search is None:
                view = self._view(at)
                mask = view.visible & (view.weight > 0) & view.match(class_id=chosen, task=steps, source=names)
                search = self._planner.search(view, mask, self._writes)
                self._searches[key] = search
                if len(self._searches) > _CACHED:
                    self._searches.popitem(last=False)
            return search(queries, k, self.dim, exclude_ids)

    # -- health -----------------------------------------------------------------------------------------------------

    def verify(self) -> dict[str, Any]:
        """Check every file against its checksum, and counts and ids against each other.

        Returns {"files", "bytes", "rows", "orphans"}; orphans (left by a crash, harmless) are relative paths.
        Raises CorruptMemoryError naming every file that does not fit.
        """
        report = maintain.verify(self.path, self._manifest)
        wrong = index_files.check(self.path)
        if wrong:
            raise CorruptMemoryError("; ".join(wrong))
        return report


def known_info(root: object, info: MemoryInfo | None) -> MemoryInfo:
    """`info`; RunError if the memory in `root` was made without."""
    if info is None:
        raise RunError(
            f"{root} does not say how its keys were made, so nothing new can be encoded for it: build it again with "
            "kc run, kc memory build or kc remember (or pass `info` to Memory.create)"
        )
    return info


def same_encoder(root: object, stored: str, fingerprint: str | None) -> None:
    """FingerprintError, naming both, if `fingerprint` is given and is not the `stored` one of the memory in `root`."""
    if fingerprint is not None and fingerprint != stored:
        raise FingerprintError(
            f"{root} holds keys of encoder {stored!r}, but these are of {fingerprint!r}: "
            "use that encoder, or build another memory"
        )
