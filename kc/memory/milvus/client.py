"""The two collections of a memory in Milvus, and every call that is made to them."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kc.errors import CorruptMemoryError, MissingExtraError, RunError
from kc.memory.milvus.rows import BATCH, COLUMNS, TEXT, Header, Marker, Version, digest
from kc.memory.store import files
from kc.types import Float32Array

LIST_BYTES = 32 * 2**20
"""Keys of the short lists that one answer may carry."""
URI, TOKEN = "KC_MILVUS_URI", "KC_MILVUS_TOKEN"
ALL = "state >= 0"
"""Every entity."""
_LOCAL = "milvus.db"
_open_local: Counter[str] = Counter()


class Store:
    """Two collections, rows and commits, of the memory at `path`: on the cluster KC_MILVUS_URI, else in a local folder.

    Everything is read at the consistency level Strong: what was acknowledged is seen. Raises MissingExtraError without
    pymilvus (and milvus-lite, for a local folder), RunError with Milvus's own words where a call fails.
    """

    def __init__(self, path: Path) -> None:
        milvus = _module("pymilvus")
        self.path = path
        self.uri = os.environ.get(URI, "")
        self.local = not self.uri
        self.name = "memory" if self.local else collection_name(path)
        if self.local:
            _module("milvus_lite")
            self.uri = str((path / _LOCAL).absolute())
            # milvus-lite has no clock, which pymilvus reports at every listing.
            logging.getLogger("pymilvus.client.iterator.query_iterator").setLevel(logging.ERROR)
        self._types = milvus.DataType
        self._errors: type[Exception] = milvus.MilvusException
        self._closed = False
        with self._calling("connect to"):
            self._client = milvus.MilvusClient(self.uri, token=os.environ.get(TOKEN, ""))
        _open_local[self.uri] += self.local

    @property
    def commits(self) -> str:
        """Name of the collection of the header and the marker."""
        return f"{self.name}_commits"

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether `path` can hold a memory: on a cluster the server has to be queried."""
        return bool(os.environ.get(URI)) or (path / _LOCAL).is_dir()

    def close(self) -> None:
        """Leave; the last one to leave a local folder ends its server, so that another process may open it."""
        if self._closed:
            return
        self._closed = True
        self._client.close()
        if self.local:
            _open_local[self.uri] -= 1
            if _open_local[self.uri] == 0:
                importlib.import_module("milvus_lite.server_manager").server_manager_instance.release_server(self.uri)

    @contextlib.contextmanager
    def _calling(self, what: str) -> Iterator[None]:
        if self._closed:
            raise RunError(f"{self.path} is closed: open it again")
        try:
            yield
        except self._errors as error:
            # milvus-lite's own error does not say whether another process has the folder.
            hint = "; only one process at a time can open a folder" if self.local and what == "connect to" else ""
            raise RunError(f"cannot {what} the memory {self.path} in Milvus at {self.uri}: {error}{hint}") from error

    # -- what it is --------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Those of its two collections that exist."""
        with self._calling("look for"):
            return [name for name in (self.name, self.commits) if self._client.has_collection(name)]

    def create(self, header: Header) -> None:
        """Make the collections. The marker comes last: a memory without one is not whole."""
        types = self._types
        rows = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        rows.add_field("state", types.INT64, is_primary=True)
        for column in ("id", "class_id", "task", "segment", "added", "removed"):
            rows.add_field(column, types.INT64)
        rows.add_field("weight", types.FLOAT)
        rows.add_field("superseded", types.BOOL)
        for column in ("sample", "source"):
            rows.add_field(column, types.VARCHAR, max_length=TEXT)
            rows.add_field(f"{column}_hash", types.VARCHAR, max_length=32)
        rows.add_field("key", types.FLOAT_VECTOR, dim=header.dim)
        indexes = self._client.prepare_index_params()
        indexes.add_index("key", metric_type="IP", **header.index)
        if not self.local:  # milvus-lite 3.2 cannot open a folder that was killed while it wrote one of these
            for column in ("id", "class_id", "task", "added", "removed", "sample_hash", "source_hash"):
                indexes.add_index(column, index_type="INVERTED")
        commits = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        commits.add_field("slot", types.INT64, is_primary=True)
        commits.add_field("text", types.VARCHAR, max_length=TEXT)
        commits.add_field("unused", types.FLOAT_VECTOR, dim=2)  # Milvus has no collection without a vector
        plain = self._client.prepare_index_params()
        plain.add_index("unused", index_type="FLAT", metric_type="IP")
        with self._calling("create"):
            for name, schema, params in ((self.name, rows, indexes), (self.commits, commits, plain)):
                self._client.create_collection(name, schema=schema, consistency_level="Strong")
                # Together: to wait for each of nine indexes of an empty collection takes half a second each.
                self._client.create_index(name, params, sync=False)
        self.load()
        self.write_header(header)
        self.write_marker(Marker())

    def load(self) -> None:
        """Make the collections ready to be read."""
        with self._calling("load"):
            for name in (self.name, self.commits):
                self._client.load_collection(name)
        if self.local:
            self._collapse()

    def _collapse(self) -> None:
        """Make one entity of those that a folder of milvus-lite shows twice.

        A flush of milvus-lite lists its new file, then deletes its log. Killed between the two, it replays the log
        over the file at the next opening, and 3.2.2 shows every entity of that log twice, equal in all that it holds.
        Written once more, an entity replaces both.
        """
        states = sorted({e["state"] for page in self.pages(ALL, ["state"]) for e in page})
        if self.count(ALL) == len(states):
            return
        for first in range(0, len(states), BATCH):
            part = states[first : first + BATCH]
            found = {e["state"]: e["superseded"] for e in self.states(f"state in {part}")}
            self.write([{"state": s, "superseded": ended} for s, ended in found.items()], partial=True)
        self.flush()

    def header(self) -> Header:
        """CorruptMemoryError if it is not what was written."""
        try:
            return Header.of_text("".join(self._slots("slot >= 1")), self.path)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptMemoryError(f"{self.path}: the header in {self.commits} is damaged ({error})") from error

    def marker(self) -> Marker | None:
        """None: the memory was never made whole. CorruptMemoryError if it is not what was written."""
        texts = self._slots("slot == 0")
        if not texts:
            return None
        try:
            values = json.loads(texts[0])
            return Marker(**values | {"versions": tuple(Version(int(t), int(s)) for t, s in values["versions"])})
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptMemoryError(f"{self.path}: the marker in {self.commits} is damaged ({error})") from error

    def write_header(self, header: Header) -> None:
        """In place of what was there, by one call: a slot for each `TEXT` characters."""
        text, n_before = header.to_text(), len(self._slots("slot >= 1"))
        parts = [text[first : first + TEXT] for first in range(0, len(text), TEXT)]
        parts += [""] * (n_before - len(parts))
        self._write_slots(dict(enumerate(parts, 1)))

    def write_marker(self, marker: Marker) -> None:
        """The commit itself."""
        text = json.dumps(asdict(marker), separators=(",", ":"))
        if len(text) > TEXT:
            raise RunError(f"{self.path} has {len(marker.versions)} versions, more than one entity of Milvus holds")
        self._write_slots({0: text})

    def _slots(self, where: str) -> list[str]:
        """Texts of the slots that a filter leaves, in their order."""
        with self._calling("read"):
            found = self._client.query(self.commits, filter=where, output_fields=["slot", "text"])
        texts = {e["slot"]: e["text"] for e in found}  # a folder of milvus-lite may show an entity twice
        return [texts[slot] for slot in sorted(texts)]

    def _write_slots(self, texts: Mapping[int, str]) -> None:
        with self._calling("commit to"):
            self._client.upsert(self.commits, [{"slot": s, "text": t, "unused": [0.0, 0.0]} for s, t in texts.items()])

    # -- reading -----------------------------------------------------------------------------------------------------

    def count(self, where: str) -> int:
        """Entities that a filter leaves."""
        with self._calling("read"):
            return int(self._client.query(self.name, filter=where, output_fields=["count(*)"])[0]["count(*)"])

    def pages(self, where: str, columns: Iterable[str]) -> Iterator[list[dict[str, Any]]]:
        """Entities that a filter leaves, in the order of their states; the filter must not change meanwhile."""
        with self._calling("read"):
            pages = self._client.query_iterator(self.name, BATCH, filter=where, output_fields=list(columns))
        try:
            while True:
                with self._calling("read"):
                    page = pages.next()
                if not page:
                    return
                yield page
        finally:
            pages.close()

    def states(self, where: str, keys: bool = False) -> list[dict[str, Any]]:
        """All entities that a filter leaves, with every column but the key (unless `keys`)."""
        return [e for page in self.pages(where, (*COLUMNS, *(["key"] if keys else []))) for e in page]

    def nearest(
        self, queries: Float32Array, where: str, n: int, params: Mapping[str, Any]
    ) -> list[list[dict[str, Any]]]:
        """For each query (Q, D) the `n` states of greatest inner product by the index: `distance` and `entity`."""
        columns = ["id", "class_id", "weight", "task", "key"]
        step = max(1, LIST_BYTES // (4 * n * queries.shape[1]))
        found: list[list[dict[str, Any]]] = []
        for first in range(0, len(queries), step):
            with self._calling("search"):
                found += self._client.search(
                    self.name,
                    data=list(queries[first : first + step]),
                    anns_field="key",
                    filter=where,
                    limit=n,
                    output_fields=columns,
                    search_params={"metric_type": "IP", "params": dict(params)},
                )
        return found

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, rows: Iterable[Mapping[str, Any]], partial: bool = False) -> None:
        """Write entities; a state that exists is replaced, so a repeated call changes nothing. partial: only the
        columns given change."""
        batch: list[Mapping[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == BATCH:
                self._upsert(batch, partial)
                batch = []
        if batch:
            self._upsert(batch, partial)

    def _upsert(self, batch: list[Mapping[str, Any]], partial: bool) -> None:
        with self._calling("write to"):
            self._client.upsert(self.name, batch, **({"partial_update": True} if partial else {}))

    def change(self, where: str, **values: object) -> int:
        """Give every entity that a filter leaves new values, after which the filter must leave it no more; returns how
        many there were."""
        n_changed = 0
        while True:
            with self._calling("read"):
                found = self._client.query(self.name, filter=where, output_fields=["state"], limit=BATCH)
            if not found:
                return n_changed
            self._upsert([{"state": e["state"], **values} for e in found], partial=True)
            n_changed += len(found)

    def delete(self, where: str) -> None:
        """Delete what a filter leaves. Its bytes go when Milvus compacts."""
        with self._calling("delete from"):
            self._client.delete(self.name, filter=where)

    def flush(self) -> None:
        """Make what was written durable."""
        with self._calling("flush"):
            self._client.flush(self.name)

    def compact(self) -> None:
        """Ask Milvus to rewrite segments without what was deleted; it does so in the background."""
        with self._calling("compact"):
            self._client.compact(self.name)

    def bytes(self) -> int | None:
        """Of the local folder; None on a cluster, where Milvus does not report it."""
        return files.folder_bytes(self.path) if self.local else None


def collection_name(path: Path) -> str:
    """Name on a cluster: letters, digits and _, as Milvus asks; a digest keeps different paths apart."""
    text = str(path)
    plain = re.sub(r"\W", "_", text, flags=re.ASCII)
    return f"kc_{plain}" if plain == text else f"kc_{plain[-200:]}_{digest(text)[:8]}"


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"Milvus needs {name} ({error}): pip install 'kc-continual[milvus]'") from error
