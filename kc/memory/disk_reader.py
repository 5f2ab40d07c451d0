"""The reading half of a memory: one committed state, its versions, and search over them."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.errors import CorruptMemoryError, RunError
from kc.memory.reader import MemoryReader
from kc.memory.search import index_files
from kc.memory.search.exact import Search
from kc.memory.search.planner import Planner, SearchOptions
from kc.memory.store import files, upkeep
from kc.memory.store import manifest as manifests
from kc.memory.store.inputs import Ids, as_ids
from kc.memory.store.manifest import DeltaInfo, MemoryManifest, VersionInfo
from kc.memory.store.segments import Segment, read_delta
from kc.memory.store.table import Labels, RowTable, Table
from kc.memory.store.view import Columns, VersionDiff, View, difference
from kc.types import Float32Array, Int64Array, Neighbours

_CACHED = 4
"""Versions and filters kept ready at once: evaluation alternates between few."""


class DiskReader(MemoryReader):
    """One committed state of the memory in a folder. Files are read when first needed, so opening takes the same time
    at any size."""

    def __init__(self, root: Path, manifest: MemoryManifest, seen: tuple[int, ...]) -> None:
        self.path = root
        self._seen = seen
        """Identity of the manifest's file, taken before it was read."""
        self._segments: dict[str, Segment] = {}
        self._deltas: dict[str, tuple[Int64Array, npt.NDArray[Any]]] = {}
        self._columns: Columns | None = None
        self._planner = Planner(root, SearchOptions())
        self._use(manifest, frozenset())

    @property
    def _may_store(self) -> bool:
        """Whether this object may keep derived files beside the rows: only a writer may."""
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
            info.name: old.get(info.name) or Segment(self.path, info, manifest.dim, info.name in new)
            for info in manifest.segments
        }
        self._deltas = {d.name: self._deltas[d.name] for d in manifest.deltas if d.name in self._deltas}
        if old.keys() != self._segments.keys():
            self._columns = None
        self._views: OrderedDict[int, View] = OrderedDict()
        self._searches: OrderedDict[tuple[object, ...], Search] = OrderedDict()

    @property
    def current(self) -> bool:
        return files.identity(self.path / manifests.NAME) == self._seen

    @contextlib.contextmanager
    def _reading(self, again: bool = False) -> Iterator[None]:
        """Tell a memory that was rewritten under a reader (erase, rollback, compact) from a damaged one.

        again: what is in RAM or mapped is returned; so that no reader returns what was erased, or changed after it was
        read, the mapped files are looked at first.
        """
        try:
            for segment in self._segments.values() if again else ():
                segment.check_again()
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

    def _view(self, at: int | None = None) -> View:
        """What is visible now, or at the version of task `at`."""
        return self._view_of(self._seq(at))

    def _view_of(self, seq: int) -> View:
        view = self._views.get(seq)
        if view is None:
            with self._reading():
                if self._columns is None:
                    self._columns = Columns(list(self._segments.values()))
                    ids = self._columns.ids
                    if len(ids) and (ids[0] < 0 or (np.diff(ids) <= 0).any() or ids[-1] >= self._next_id):
                        self._columns = None
                        raise CorruptMemoryError(f"{self.path}: ids of rows do not ascend below {self._next_id}")
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
    def _about(self) -> MemoryManifest:
        return self._manifest

    @property
    def _next_id(self) -> int:
        return self._manifest.next_id

    @property
    def _commits(self) -> tuple[VersionInfo, ...]:
        return self._manifest.versions

    @property
    def _head(self) -> int:
        return self._manifest.number

    def __len__(self) -> int:
        newest = self._manifest.versions[-1:]
        if newest and newest[0].seq >= self._manifest.last_change:
            return newest[0].rows  # without reading a column
        return self._view().n_visible

    @property
    def numbers(self) -> tuple[int, int]:
        """Number of the newest commit, and of the newest that changed which rows are shown, and as what."""
        return self._manifest.number, self._manifest.last_change

    def weights_before(self, number: int, ids: Int64Array) -> Float32Array:
        """Weights (N,) of rows now; of those whose weight is still the one that commit `number` gave them, the weights
        before it. RunError where the history was dropped that knows these."""
        if not any((d.seq, d.kind) == (number, "weights") for d in self._manifest.deltas):
            raise RunError(f"{self.path}: the weights before commit {number} are not known, the history was dropped")
        at, now, then = self._positions(ids), self._view(), self._view_of(number)
        same = (now.weight[at] == then.weight[at]) & (now.columns.added[at] < number)
        return np.where(same, self._view_of(number - 1).weight[at], now.weight[at])

    def _n_rows(self, at: int | None) -> int:
        return self._view(at).n_visible

    def versions(self) -> tuple[VersionInfo, ...]:
        return self._manifest.versions

    def snapshot(self, task: int) -> VersionInfo:
        version = self._version(task)
        assert isinstance(version, VersionInfo)  # whose rows are stored, not counted
        return version

    def diff(self, a: int, b: int | None = None) -> VersionDiff:
        """What changed from the version of task `a` to that of task `b` (None = now): rows added, retired, relabelled
        and reweighted. UnknownNameError for a task without a version."""
        return difference(self._view(a), self._view(b))

    def stats(self) -> dict[str, Any]:
        view = self._view()
        # Without the manifest and the lock, whose sizes depend on the number of commits and on who holds it.
        stored = sum(size for size, _ in self._manifest.named_files().values())
        # What is computed counts for the newest state only: which older ones were asked for depends on interruptions.
        cache, now = upkeep.derived(self.path), f"{self._head:06d}"
        older = [p for p in cache.glob("*/*") if p.is_dir() and p.name != now]
        stored += files.folder_bytes(cache) - sum(map(files.folder_bytes, older))
        return {
            "rows": view.n_visible,
            "rows_total": len(view.columns),
            "bytes": stored,
            "dim": self.dim,
            "fingerprint": self.fingerprint,
            "classes": len(np.unique(view.class_id[view.visible])),
            "versions": [v.task for v in self._manifest.versions],
            **self._planner.stats(view),
        }

    def _ids(self, criteria: Mapping[str, Any], at: int | None, retired: bool) -> Int64Array:
        view = self._view(at)
        with self._reading():
            match = view.match(criteria)
        return view.columns.ids[match if retired else view.visible & match]

    def labels(self, at: int | None = None) -> Labels:
        view = self._view(at)
        rows = np.flatnonzero(view.visible)
        columns = view.columns
        return Labels(columns.ids[rows], view.class_id[rows], columns.task[rows], view.weight[rows])

    def keys(self, ids: Ids) -> Float32Array:
        with self._reading(again=True):
            return self._view().columns.vectors(self._positions(as_ids(ids)))

    def rows_of(self, ids: Ids) -> RowTable:
        wanted = as_ids(ids)
        view = self._view()
        at = self._positions(wanted)
        columns = view.columns
        with self._reading(again=True):
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
        view = self._view(at)
        for number, segment in enumerate(view.columns.segments):
            span = slice(int(view.columns.offsets[number]), int(view.columns.offsets[number + 1]))
            rows = np.flatnonzero(view.visible[span])
            if len(rows):
                with self._reading():
                    table = segment.table(rows)
                yield replace(table, class_id=view.class_id[span][rows], weight=view.weight[span][rows])

    # -- searching --------------------------------------------------------------------------------------------------

    def _search(
        self, queries: object, k: int, criteria: Mapping[str, Any], at: int | None, exclude_ids: object
    ) -> Neighbours:
        # Names as sets, numbers as sorted bytes: the same filter in another order is the same search.
        asked = {name: np.unique(value) if isinstance(value, np.ndarray) else value for name, value in criteria.items()}
        parts = (v.tobytes() if isinstance(v, np.ndarray) else v for v in asked.values())
        key = (self._seq(at), *asked, *parts)
        with self._reading(again=True):
            search = self._searches.get(key)
            if search is None:
                view = self._view(at)
                mask = view.visible & (view.weight > 0) & view.match(asked)
                search = self._planner.search(view, mask, self._may_store)
                search.room = max(0, search.room - sum(s.kept_bytes for s in self._searches.values()))
                self._searches[key] = search
                if len(self._searches) > _CACHED:
                    self._searches.popitem(last=False)
            return search(queries, k, self.dim, exclude_ids)

    # -- health -----------------------------------------------------------------------------------------------------

    def verify(self) -> dict[str, Any]:
        report = upkeep.verify(self.path, self._manifest)
        wrong = index_files.check(self.path)
        if wrong:
            raise CorruptMemoryError("; ".join(wrong))
        return report
