"""The writing half of a memory in Milvus: stage, commit, roll back, retire, erase, reweight, relabel, compact."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.errors import RunError
from kc.memory.disk_reader import same_encoder
from kc.memory.milvus.client import Store
from kc.memory.milvus.reader import MilvusReader, id_filters
from kc.memory.milvus.rows import (
    BATCH,
    FOREVER,
    Marker,
    digest,
    entities,
    latest,
    matching,
    named_one_of,
    stored_name,
    visible,
)
from kc.memory.store import exchange
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
from kc.memory.store.staging import Staging, as_table
from kc.memory.store.table import NameColumn, Table
from kc.types import Int64Array, Rows


class MilvusWriter(MilvusReader):
    """Changes of the memory that `store` holds. Every method raises RunError unless it was opened for writing."""

    def __init__(self, path: Path, store: Store, write: bool) -> None:
        super().__init__(path, store, write)
        self._pid = os.getpid()
        self._staging = Staging(self.dim)
        self._unsettled = write
        """Whether Milvus may hold something of a commit that did not happen."""

    def _writer(self) -> None:
        """RunError unless this memory was opened for writing, by this process."""
        check_writer(self.path, self._write, self._pid)

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
        fitting = exchange.fitting(tables, header, origin, self.dim, self._header.salt, self.path)
        return sum(self._staging.add_new(table, *self._stored(table)) for table in fitting)

    def _stored(self, table: Table) -> tuple[NameColumn, Int64Array]:
        """Sample and segment of the visible rows of the samples in `table`."""
        samples = {digest(name): name for name in table.sample.used().names}
        digests = list(samples)
        found = [
            e
            for first in range(0, len(digests), BATCH)
            for page in self._store.pages(
                f"{visible(self._marker.head)} and {named_one_of('sample', digests[first : first + BATCH])}",
                ["sample_hash", "segment"],
            )
            for e in page
        ]
        sample = NameColumn.of([samples[e["sample_hash"]] for e in found])
        return sample, np.array([e["segment"] for e in found], np.int64)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[int]:
        """Number of the change to be made, over a store without remains of one that did not happen."""
        self._writer()
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
        self._store.write_marker(marker)
        self._marker = marker
        self._unsettled = False

    def commit(self, task: int) -> int:
        """Make the staged rows durable and visible, all or none, and name this state the version of `task`.

        Returns the number of new rows. Repeating it changes nothing. Raises ValueError if rows are staged for a task
        before the newest version's (roll back first), RunError if Milvus fails: then the staged rows are kept, the
        state before stays readable, and the commit can be repeated.
        """
        self._writer()
        marker = self._marker
        newest = marker.versions[-1][0] if marker.versions else -1
        n_new = len(self._staging)
        if is_older(task, newest, n_new):
            marker.seq(task)
            return 0
        if task == newest and not n_new and marker.versions[-1][1] == marker.head:
            return 0
        with self._changing() as number:
            for table in self._staging.tables(marker.next_id, number, BATCH):
                self._store.write(entities(table, marker.next_state + int(table.ids[0]) - marker.next_id))
            self._store.flush()
            self._publish(
                replace(
                    marker,
                    number=number,
                    head=number,
                    next_id=marker.next_id + n_new,
                    next_state=marker.next_state + n_new,
                    versions=(*(v for v in marker.versions if v[0] != task), (task, number)),
                )
            )
        self._staging.clear()
        return n_new

    def rollback(self, task: int) -> None:
        """Drop everything committed after the last version of a task <= `task` (all of it if there is none).

        Drops what is staged too. Ids of dropped rows are not used again. A resumed run that replays task t calls
        rollback(t - 1) first.
        """
        self._writer()
        self._staging.clear()
        kept = tuple(v for v in self._marker.versions if v[0] <= task)
        head = kept[-1][1] if kept else 0
        if (head, kept) == (self._marker.head, self._marker.versions):
            return
        with self._changing() as number:
            rewrites = self._marker.rewrites + 1
            self._publish(replace(self._marker, number=number, head=head, versions=kept, rewrites=rewrites))
            self._unsettled = True
            self._sweep()

    def remove(
        self,
        ids: Ids | None = None,
        *,
        class_id: Ids | None = None,
        source: Names | None = None,
        task: Ids | None = None,
        sample_id: Names | None = None,
    ) -> int:
        """Retire the visible rows that meet every criterion given, at once; returns how many.

        Versions committed before still replay them; use `erase` to be rid of them. Staged rows that meet the criteria
        are dropped and counted too. ValueError without a criterion or for an id that was never given out.
        """
        criteria = self._criteria(ids=ids, class_id=class_id, source=source, task=task, sample_id=sample_id)
        now = visible(self._marker.head)
        n_rows = 0
        if any(self._store.count(f"{now} and {asked}") for asked in _matching(criteria)):
            with self._changing() as number:
                n_rows = sum(
                    self._store.change(f"removed == {FOREVER} and {now} and {asked}", removed=number)
                    for asked in _matching(criteria)
                )
                self._publish(replace(self._marker, number=number, head=number))
        return n_rows + self._staging.drop(**criteria)

    def _criteria(self, **given: Any) -> dict[str, Any]:
        self._writer()
        return check_criteria(given, self._header.salt, self._marker.next_id)

    def erase(
        self,
        ids: Ids | None = None,
        *,
        class_id: Ids | None = None,
        source: Names | None = None,
        task: Ids | None = None,
        sample_id: Names | None = None,
    ) -> int:
        """Delete rows from every version, retired ones too; returns how many. Classes are those of now.

        The module says what this means for the bytes, and what to do where it was interrupted.
        """
        criteria = self._criteria(ids=ids, class_id=class_id, source=source, task=task, sample_id=sample_id)
        last = latest(self._marker.head)
        doomed = np.array(
            [
                e["id"]
                for asked in _matching(criteria)
                for page in self._store.pages(f"{last} and {asked}", ["id"])
                for e in page
            ],
            np.int64,
        )
        if len(doomed):
            with self._changing():
                self._publish(replace(self._marker, rewrites=self._marker.rewrites + 1))
                for part in id_filters(doomed):
                    # The last state goes last: as long as it is there, a repeated call finds the row.
                    self._store.delete(f"{part} and superseded == true")
                    self._store.delete(part)
                self._store.flush()
                self._store.compact()
        return len(doomed) + self._staging.drop(**criteria)

    def reweight(self, ids: Ids, weights: npt.ArrayLike) -> None:
        """Give visible rows new vote weights (>= 0; 0 hides a row from search), at once."""
        rows = distinct_ids(ids)
        self._supersede(rows, "weight", check_weights(weights, len(rows)).tolist())

    def relabel(self, ids: Ids, class_ids: npt.ArrayLike) -> None:
        """Give visible rows new classes, at once; versions committed before keep the old ones."""
        rows = distinct_ids(ids)
        self._supersede(rows, "class_id", check_classes(class_ids, len(rows)).tolist())

    def _supersede(self, ids: Int64Array, column: str, values: list[Any]) -> None:
        """End the state of these rows, and begin one that differs in one column."""
        self._writer()
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
                    e | {"state": next_state + i, "added": number, column: values[i]} for i, e in enumerate(old, first)
                ]
                hashes = ({f"{c}_hash": digest(stored_name(e[c])) for c in ("sample", "source")} for e in new)
                self._store.write(e | h for e, h in zip(new, hashes, strict=True))
                ended = {"removed": number, "superseded": True}
                self._store.write([{"state": e["state"]} | ended for e in old], partial=True)
            self._publish(replace(self._marker, number=number, head=number, next_state=next_state + len(ids)))

    def compact(self, history: bool = True) -> bool:
        """Ask Milvus to compact. history=False keeps the present only, as the version of the newest task, and drops
        every state that ended before. Returns whether any was dropped."""
        self._writer()
        head, versions = self._marker.head, self._marker.versions
        ended = f"removed <= {head}"
        dropped = False
        if not history:
            kept = tuple((task, head) for task, _ in versions[-1:])
            dropped = kept != versions or self._store.count(ended) > 0
            if dropped:
                with self._changing():
                    self._publish(replace(self._marker, versions=kept, rewrites=self._marker.rewrites + 1))
                    self._store.delete(ended)
        self._store.flush()
        self._store.compact()
        return dropped


def _matching(criteria: dict[str, Any]) -> Iterator[str]:
    """Filters that together leave the rows which meet every criterion, each once."""
    ids = criteria.get("ids")
    parts = [criteria] if ids is None else []
    if ids is not None:
        distinct = np.unique(ids)
        parts = [criteria | {"ids": distinct[i : i + BATCH]} for i in range(0, len(distinct), BATCH)]
    for part in parts:
        asked = matching(part)
        if asked is not None:
            yield asked
