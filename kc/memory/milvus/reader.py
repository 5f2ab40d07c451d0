"""The reading half of a memory in Milvus: one committed state, its versions, and search over them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kc.errors import CorruptMemoryError, EmptyMemoryError, RunError
from kc.memory.milvus.client import Store
from kc.memory.milvus.rows import BATCH, MOST, Header, Marker, Version, latest, matching, stored_name, table_of, visible
from kc.memory.reader import MemoryReader
from kc.memory.search.blocks import Float64Array
from kc.memory.search.exact import OVERFETCH, check_queries, cosines, float32_margin, ranking
from kc.memory.store.inputs import Ids, as_ids
from kc.memory.store.manifest import VersionInfo
from kc.memory.store.table import Labels, RowTable, Table
from kc.types import Float32Array, Int64Array, Neighbours

REFINE = 10
"""Rows that an index which is not FLAT proposes for each that is asked for."""


class MilvusReader(MemoryReader):
    """One committed state of the memory that `store` holds."""

    def __init__(self, path: Path, store: Store, write: bool) -> None:
        marker = store.marker()
        if marker is None:
            raise RunError(f"{path} was not made whole: drop the collections {store.name}, {store.commits} in Milvus")
        self.path = path
        self._store = store
        self._header = store.header()
        self._marker: Marker = marker
        self._write = write
        self._params: dict[str, Any] = {}

    def configure(self, **params: Any) -> None:
        """Parameters of the index for every search from now on (`nprobe=64` of an IVF, `ef=200` of HNSW)."""
        self._params = params

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """RunError if a writer has destroyed, meanwhile, states that this reader may have seen."""
        yield
        if not self._write:
            now = self._store.marker()
            if now is None or now.rewrites != self._marker.rewrites:
                raise RunError(
                    f"{self.path} was rewritten (erase, rollback, compact) since it was opened: open it again"
                )

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def _about(self) -> Header:
        return self._header

    @property
    def _next_id(self) -> int:
        return self._marker.next_id

    @property
    def _commits(self) -> tuple[Version, ...]:
        return self._marker.versions

    @property
    def current(self) -> bool:
        return self._store.marker() == self._marker

    @property
    def _head(self) -> int:
        return self._marker.head

    def __len__(self) -> int:
        return self._n_rows(None)

    def _n_rows(self, at: int | None) -> int:
        with self._reading():
            return self._store.count(visible(self._seq(at)))

    def versions(self) -> tuple[VersionInfo, ...]:
        with self._reading():
            return tuple(VersionInfo(task, seq, self._store.count(visible(seq))) for task, seq in self._marker.versions)

    def snapshot(self, task: int) -> VersionInfo:
        return VersionInfo(task, self._version(task).seq, self._n_rows(task))

    def stats(self) -> dict[str, Any]:
        """As `Memory.stats`; `bytes` is None on a cluster. Reads the class of every row."""
        rows_total = self._store.count(latest(self._marker.head))
        classes = self.labels().class_id
        return {
            "rows": len(classes),
            "rows_total": rows_total,
            "bytes": self._store.bytes(),
            "dim": self.dim,
            "fingerprint": self.fingerprint,
            "classes": len(np.unique(classes)),
            "versions": [task for task, _ in self._marker.versions],
            "plan": "milvus",
            "reason": f"the rows are in Milvus at {self._store.uri}",
            "index": dict(self._header.index) | self._params,
        }

    def _ids(self, criteria: Mapping[str, Any], at: int | None, retired: bool) -> Int64Array:
        shown = latest(self._seq(at)) if retired else visible(self._seq(at))
        with self._reading():
            return np.sort(self._ids_of(both(shown, matching(criteria))))

    def _ids_of(self, where: str | None) -> Int64Array:
        """Ids of the states that a filter leaves."""
        pages = [] if where is None else self._store.pages(where, ["id"])
        return np.array([e["id"] for page in pages for e in page], np.int64)

    def labels(self, at: int | None = None) -> Labels:
        columns = ("id", "class_id", "task", "weight")
        with self._reading():
            found = [e for page in self._store.pages(visible(self._seq(at)), columns) for e in page]
        found.sort(key=lambda e: e["id"])
        ids, classes, tasks = (np.array([e[c] for e in found], np.int64) for c in columns[:3])
        return Labels(ids, classes, tasks, np.array([e["weight"] for e in found], np.float32))

    def keys(self, ids: Ids) -> Float32Array:
        return table_of(self._rows(as_ids(ids), keys=True), self.dim).vectors

    def rows_of(self, ids: Ids) -> RowTable:
        asked = as_ids(ids)
        found = self._rows(asked)
        head = self._marker.head
        return RowTable(
            id=asked,
            class_id=np.array([e["class_id"] for e in found], np.int64),
            weight=np.array([e["weight"] for e in found], np.float32),
            task=np.array([e["task"] for e in found], np.int64),
            sample_id=tuple(stored_name(e["sample"]) for e in found),
            segment=np.array([e["segment"] for e in found], np.int64),
            source=tuple(stored_name(e["source"]) for e in found),
            visible=np.array([e["removed"] > head for e in found], bool),
        )

    def _rows(self, ids: Int64Array, keys: bool = False) -> list[dict[str, Any]]:
        """The last state of each of these rows."""
        found: dict[int, dict[str, Any]] = {}
        with self._reading():
            for part in id_filters(ids):
                where = f"{latest(self._marker.head)} and {part}"
                found |= {e["id"]: e for e in self._store.states(where, keys)}
        for row in ids.tolist():
            if row not in found:
                raise ValueError(f"the memory stores no row with id {row}")
        return [found[row] for row in ids.tolist()]

    def tables(self, at: int | None = None) -> Iterator[Table]:
        now = visible(self._seq(at))
        for part in id_filters(self.ids(at=at)):
            with self._reading():
                found = self._store.states(f"{now} and {part}", keys=True)
            yield table_of(sorted(found, key=lambda e: e["id"]), self.dim)

    def verify(self) -> dict[str, Any]:
        """Check that each stored row has one last state, with an id that was given out.

        Milvus checks the bytes of its own files. Returns what `Memory.verify` does; files is 0, orphans are the states
        of a commit that did not happen.
        """
        head = self._marker.head
        with self._reading():
            ids, shown = self._ids_of(latest(head)), self._ids_of(visible(head))
            left = self._store.count(f"added > {head}")
        wrong = [
            f"{self.path}: {what}"
            for what, found in (
                ("a row has two states at once", len(np.unique(ids)) < len(ids) or len(np.unique(shown)) < len(shown)),
                (f"an id is not below {self._next_id}", len(ids) and (ids.min() < 0 or ids.max() >= self._next_id)),
            )
            if found
        ]
        if wrong:
            raise CorruptMemoryError("; ".join(wrong))
        orphans = [f"{left} states of a commit that did not happen"] if left else []
        return {"files": 0, "bytes": self._store.bytes(), "rows": len(ids), "orphans": orphans}

    # -- searching --------------------------------------------------------------------------------------------------

    def _search(
        self, queries: object, k: int, criteria: Mapping[str, Any], at: int | None, exclude_ids: object
    ) -> Neighbours:
        """k is at most 16,384. RunError if the index finds fewer rows than there are: raise its parameters
        (`configure`)."""
        if not 1 <= k <= MOST:
            raise ValueError(f"k must be at least 1 and at most {MOST}, got {k}")
        fast, exact = check_queries(queries, self.dim)
        where = both(f"{visible(self._seq(at))} and weight > 0", matching(criteria))
        with self._reading():
            n_rows = 0 if where is None else self._store.count(where)
            exclude = self._excluded(exclude_ids, len(fast), where)
            k = min(k, n_rows - int((exclude >= 0).any()))
            if where is None or k < 1:
                raise EmptyMemoryError("no row of the memory is visible to this search: add rows or widen the filter")
            return self._nearest(fast, exact, k, where, n_rows, exclude)

    def _excluded(self, exclude_ids: object, n_queries: int, where: str | None) -> Int64Array:
        """(Q,) the id that each query must not find, -1 where it could not anyway."""
        if exclude_ids is None or where is None:
            return np.full(n_queries, -1, np.int64)
        ids = np.asarray(exclude_ids, dtype=np.int64)
        if ids.shape != (n_queries,):
            raise ValueError(f"exclude_ids must be ({n_queries},), one id a query, got {ids.shape}")
        known = [self._ids_of(f"{where} and {part}") for part in id_filters(np.unique(ids[ids >= 0]))]
        return np.where(np.isin(ids, np.concatenate([np.zeros(0, np.int64), *known])), ids, -1)

    def _nearest(
        self, fast: Float32Array, exact: Float64Array, k: int, where: str, n_rows: int, exclude: Int64Array
    ) -> Neighbours:
        """The k best of what the index proposes, by float64 cosine.

        A FLAT index ranks by float32 inner product, so a list that ends within its rounding of the k-th row is asked
        for again four times as long; other indexes err by more than that and get a longer list at once.
        """
        flat = self._header.index.get("index_type") == "FLAT"
        n = min(n_rows, MOST, (k if flat else REFINE * k) + OVERFETCH + int((exclude >= 0).any()))
        out = Neighbours(
            id=np.empty((len(fast), k), np.int64),
            score=np.empty((len(fast), k), np.float32),
            class_id=np.empty((len(fast), k), np.int64),
            weight=np.empty((len(fast), k), np.float32),
            task=np.empty((len(fast), k), np.int64),
        )
        todo = np.arange(len(fast))
        while len(todo):
            unsure = []
            for q, hits in zip(todo, self._store.nearest(fast[todo], where, n, self._params), strict=True):
                rows = [h["entity"] for h in hits if h["entity"]["id"] != exclude[q]]
                if len(rows) < k:
                    raise RunError(f"the index found {len(rows)} of {k} rows: raise its parameters (`configure`)")
                ids = np.array([r["id"] for r in rows], np.int64)
                keys = np.array([r["key"] for r in rows], np.float32).astype(np.float64)
                score = cosines(keys[None], exact[q, None])[0]
                top_k = ranking(ids[None], score[None], k)[0]
                out.id[q] = ids[top_k]
                out.score[q] = score[top_k].clip(-1.0, 1.0)
                for name in ("class_id", "weight", "task"):
                    getattr(out, name)[q] = [rows[i][name] for i in top_k]
                ends = min(h["distance"] for h in hits)
                if flat and ends >= score[top_k[-1]] - float32_margin(self.dim):
                    unsure.append(q)
            if n == min(n_rows, MOST):
                break
            n = min(n_rows, MOST, 4 * n)
            todo = np.array(unsure, np.int64)
        return out


def both(first: str, second: str | None) -> str | None:
    """What two filters leave; None where the second leaves nothing."""
    return None if second is None else f"{first} and {second}" if second else first


def id_filters(ids: Int64Array) -> Iterator[str]:
    """Filters that name these rows, not too many in one."""
    for first in range(0, len(ids), BATCH):
        yield f"id in {ids[first : first + BATCH].tolist()}"
