"""The same memory in Milvus: for rows that one machine no longer carries, and for tests of the contract in a folder.

What it promises as `kc.memory.disk.Memory` does: of a region, (sample, segment), one row is visible, a commit shows all
of its rows or none (one entity, written last, says which commit is shown; what is beyond it is swept by the next
writer), a version is a filter and replays, an encoder's fingerprint is compared, ties go to the lowest id.

What it cannot promise:
- One writer. In a local folder a lock sees to it. Milvus has no such thing: on a cluster a second writer is refused
  once the other has committed, but changes that two make at the same moment can mix. Have one.
- Erasing at once. Rows are gone from every answer when `erase` returns, but Milvus drops their bytes when it compacts
  and collects its garbage, and copies of its object storage are its operator's. An `erase` that is interrupted has
  erased a part: repeat it.
- Exact search by every index. FLAT is exact up to 16,384 rows of one scene (all that Milvus returns); any other is as
  good as its parameters. What Milvus returns is scored again in float64 from the stored keys.
- Every kill survived in a folder of milvus-lite: what was found is fixed (docs/memory-store.md), but it is for tests.
- Checksums: what is damaged in Milvus's storage is for Milvus to find. `verify` compares ids and states only, and there
  is no `repair`.

A new class or weight stores the row again, key included, until `compact(history=False)`. `diff` and `derived` (files
computed from a version) belong to the store on disk. Milvus 2.6.2 or later; on a cluster set KC_MILVUS_URI, and
KC_MILVUS_TOKEN where it asks for a token.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.errors import RunError
from kc.memory.base import MemoryStore
from kc.memory.milvus.client import URI, Store
from kc.memory.milvus.reader import MilvusReader, id_filters
from kc.memory.milvus.rows import (
    BATCH,
    FOREVER,
    Header,
    Marker,
    Version,
    digest,
    entities,
    latest,
    matching,
    named_one_of,
    stored_name,
    visible,
)
from kc.memory.reader import check_encoder
from kc.memory.store import files, upkeep
from kc.memory.store.info import MemoryInfo
from kc.memory.store.lock import WriterLock
from kc.memory.store.table import NameColumn, Table
from kc.types import Int64Array


class MilvusMemory(MilvusReader, MemoryStore):
    """`MemoryStore` over Milvus; the module says where it promises less than `kc.memory.disk.Memory`.

    `path` is a folder (milvus-lite), or with KC_MILVUS_URI set the memory's name on that cluster.
    """

    def __init__(self, path: Path, store: Store, lock: WriterLock | None, write: bool) -> None:
        MilvusReader.__init__(self, path, store, write)
        MemoryStore.__init__(self, path, self.dim, lock, write)
        self._unsettled = write
        """Whether Milvus may hold something of a commit that did not happen."""

    # -- opening ----------------------------------------------------------------------------------------------------

    @classmethod
    def _create(
        cls,
        root: Path,
        dim: int,
        fingerprint: str,
        info: MemoryInfo | None,
        salt: str,
        index: dict[str, Any] | None = None,
    ) -> MilvusMemory:
        """index: `index_type` and `params` of Milvus's vector index, by default FLAT: exact.

        Raises RunError where Milvus cannot be reached, MissingExtraError without pymilvus.
        """
        header = Header(dim, fingerprint, salt, info, dict(index or {"index_type": "FLAT"}))
        with _store(root, write=True, new=True) as (store, lock):
            taken = store.names()
            if taken:
                raise RunError(f"{root} already holds a memory (collections {', '.join(taken)} in Milvus)")
            store.create(header)
            return cls(root, store, lock, write=True)

    @classmethod
    def open(cls, path: str | Path, fingerprint: str | None = None, write: bool = False) -> MilvusMemory:
        root = Path(path)
        if not Store.exists(root):
            raise RunError(f"no memory in {root}: check the path")
        with _store(root, write) as (store, lock):
            if len(store.names()) < 2:
                raise RunError(f"no memory {root} in Milvus at {store.uri}: check the name")
            store.load()
            memory = cls(root, store, lock, write)
            check_encoder(root, memory.fingerprint, fingerprint)
            return memory

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        if not Store.exists(Path(path)):
            return False
        with contextlib.closing(Store(Path(path))) as store:
            return bool(store.names())

    def close(self) -> None:
        self._store.close()  # before the lock is given back: a local folder has one process
        super().close()

    @property
    def _settings(self) -> dict[str, Any]:
        return self._params

    # -- writing ----------------------------------------------------------------------------------------------------

    def _stage_new(self, table: Table) -> int:
        """Reads sample, segment and id of the visible rows of the samples in `table`."""
        samples = {digest(name): name for name in table.sample.used().names}
        digests = list(samples)
        found = [
            e
            for first in range(0, len(digests), BATCH)
            for page in self._store.pages(
                f"{visible(self._marker.head)} and {named_one_of('sample', digests[first : first + BATCH])}",
                ["sample_hash", "segment", "id"],
            )
            for e in page
        ]
        sample = NameColumn.of([samples[e["sample_hash"]] for e in found])
        segment, ids = (np.array([e[column] for e in found], np.int64) for column in ("segment", "id"))
        return self._staging.add_new(table, sample, segment, ids, self._stay, self.background_ids)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[int]:
        """Number of the change to be made, over a store without remains of one that did not happen."""
        self._check_writer()
        self._check_marker()
        if self._unsettled:
            self._sweep()
        self._unsettled = True
        yield self._marker.number + 1

    def _sweep(self) -> None:
        """Remove what was written for commits that are not shown: those of a crash, and those that were rolled back."""
        head = self._marker.head
        self._store.delete(f"added > {head}")
        self._store.change(f"removed > {head} and removed < {FOREVER}", removed=FOREVER, superseded=False)
        self._unsettled = False

    def _check_marker(self) -> None:
        if self._store.marker() != self._marker:
            raise RunError(
                f"{self.path} is not as this writer left it: it has a second writer, or the answer to the last commit "
                "was lost; open it again"
            )

    def _publish(self, marker: Marker) -> None:
        """Commit: show what was written."""
        self._check_marker()
        if self._info is not None:
            self._update_info(self._info)
        self._store.write_marker(marker)
        self._marker = marker
        self._unsettled = False

    def _changed_since_newest(self) -> bool:
        return self._marker.versions[-1].seq != self._marker.head

    def _commit(self, task: int) -> None:
        marker, n_new = self._marker, len(self._staging)
        with self._changing() as number:
            for table in self._staging.tables(marker.next_id, number, BATCH):
                self._store.write(entities(table, marker.next_state + int(table.ids[0]) - marker.next_id))
            shown = f"removed == {FOREVER} and {visible(marker.head)}"
            for part in id_filters(self._staging.replaced()):
                self._store.change(f"{shown} and {part}", removed=number)
            self._store.flush()
            self._publish(
                replace(
                    marker,
                    number=number,
                    head=number,
                    next_id=marker.next_id + n_new,
                    next_state=marker.next_state + n_new,
                    versions=(*(v for v in marker.versions if v.task != task), Version(task, number)),
                )
            )
        self._staging.clear()

    def _rollback(self, n_kept: int) -> None:
        kept = self._marker.versions[:n_kept]
        head = kept[-1].seq if kept else 0
        if (head, kept) == (self._marker.head, self._marker.versions):
            return
        with self._changing() as number:
            rewrites = self._marker.rewrites + 1
            self._publish(replace(self._marker, number=number, head=head, versions=kept, rewrites=rewrites))
            self._unsettled = True
            self._sweep()

    def _remove(self, criteria: Mapping[str, Any]) -> int:
        now = visible(self._marker.head)
        n_rows = 0
        if any(self._store.count(f"{now} and {asked}") > 0 for asked in _matching(criteria)):
            with self._changing() as number:
                n_rows = sum(
                    self._store.change(f"removed == {FOREVER} and {now} and {asked}", removed=number)
                    for asked in _matching(criteria)
                )
                self._publish(replace(self._marker, number=number, head=number))
        return n_rows

    def _erase(self, criteria: Mapping[str, Any]) -> int:
        last = latest(self._marker.head)
        found = [self._ids_of(f"{last} and {asked}") for asked in _matching(criteria)]
        erased = np.concatenate([np.zeros(0, np.int64), *found])
        if len(erased):
            with self._changing():
                self._publish(replace(self._marker, rewrites=self._marker.rewrites + 1))
                for part in id_filters(erased):
                    # The last state goes last: as long as it is there, a repeated call finds the row.
                    self._store.delete(f"{part} and superseded == true")
                    self._store.delete(part)
                self._store.flush()
                self._store.compact()
        return len(erased)

    def _change(self, column: str, ids: Int64Array, values: npt.NDArray[Any]) -> None:
        """End the state of these rows, and begin one that differs in one column."""
        new_values = values.tolist()
        for row, e in zip(ids.tolist(), self._rows(ids), strict=True):
            if e["removed"] <= self._marker.head:
                raise ValueError(f"row {row} is retired")
        if len(ids) == 0:
            return
        with self._changing() as number:
            next_state = self._marker.next_state
            for first in range(0, len(ids), BATCH):
                old = self._rows(ids[first : first + BATCH], keys=True)
                new = [
                    e | {"state": next_state + i, "added": number, column: new_values[i]}
                    for i, e in enumerate(old, first)
                ]
                hashes = ({f"{c}_hash": digest(stored_name(e[c])) for c in ("sample", "source")} for e in new)
                self._store.write(e | h for e, h in zip(new, hashes, strict=True))
                ended = {"removed": number, "superseded": True}
                self._store.write([{"state": e["state"]} | ended for e in old], partial=True)
            self._publish(replace(self._marker, number=number, head=number, next_state=next_state + len(ids)))

    def _update_info(self, info: MemoryInfo) -> None:
        self._check_marker()
        header = replace(self._header, info=info)
        self._store.write_header(header)
        self._header = header

    def compact(self, history: bool = True) -> bool:
        """Ask Milvus to compact. history=False keeps the present only, as the version of the newest task, and drops
        every state that ended before. Returns whether any was dropped."""
        self._check_writer()
        head, versions = self._marker.head, self._marker.versions
        ended = f"removed <= {head}"
        dropped = False
        if not history:
            kept = tuple(Version(v.task, head) for v in versions[-1:])
            dropped = kept != versions or self._store.count(ended) > 0
            if dropped:
                with self._changing():
                    self._publish(replace(self._marker, versions=kept, rewrites=self._marker.rewrites + 1))
                    self._store.delete(ended)
        self._store.flush()
        self._store.compact()
        return dropped


def _matching(criteria: Mapping[str, Any]) -> Iterator[str]:
    """Filters that together leave the rows which meet every criterion, each once."""
    ids = criteria.get("ids")
    parts = [criteria] if ids is None else []
    if ids is not None:
        distinct = np.unique(ids)
        parts = [{**criteria, "ids": distinct[i : i + BATCH]} for i in range(0, len(distinct), BATCH)]
    for part in parts:
        asked = matching(part)
        if asked is not None:
            yield asked


@contextlib.contextmanager
def _store(root: Path, write: bool, new: bool = False) -> Iterator[tuple[Store, WriterLock | None]]:
    """The store at `root`, and for a writer of a local folder its lock; both are given back on failure."""
    with contextlib.ExitStack() as undo:
        lock = None
        if write and not os.environ.get(URI):
            with files.explain_os_errors(root, "create" if new else "open for writing"):
                if new:
                    if Store.exists(root):
                        raise RunError(f"{root} already holds a memory: open it, or choose another path")
                    root.mkdir(parents=True, exist_ok=True)
                    upkeep.check_unused(root)
                lock = WriterLock(root)
                undo.callback(lock.release)
        store = Store(root)
        undo.callback(store.close)
        yield store, lock
        undo.pop_all()
