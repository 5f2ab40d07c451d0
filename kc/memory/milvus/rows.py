"""Rows as Milvus entities: the schema, the filters that a version is, and the marker that commits.

Every *state* of a row is an entity, with the row's key, and is current from the commit `added` until the commit
`removed` (FOREVER while it lasts). Retiring a row ends its state; a new class or weight ends it (`superseded`) and adds
another state of the same id. So the memory of commit n is the filter `added <= n < removed`, and nothing is copied.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from kc.memory.store.info import MemoryInfo
from kc.memory.store.manifest import SCHEMA, outdated
from kc.memory.store.table import NameColumn, Table

FOREVER = 2**62
"""`removed` of a state that has not ended."""
MOST = 16_384
"""Entities that Milvus returns at once, and neighbours that it finds for a query."""
BATCH = 1024
"""Entities written, and ids named in a filter, at once: a few MB of 768 values a key."""
TEXT = 65_535
"""Longest VARCHAR, in bytes."""
COLUMNS = ("state", "id", "class_id", "task", "segment", "added", "removed", "weight", "superseded", "sample", "source")
"""Of a state, without its key and the digests of its names."""


@dataclass(frozen=True)
class Header:
    """What never changes. `index`: type and parameters of the vector index."""

    dim: int
    fingerprint: str
    salt: str = ""
    info: MemoryInfo | None = None
    index: dict[str, Any] = field(default_factory=dict)

    def to_text(self) -> str:
        """JSON from which `of_text` makes an equal header."""
        info = None if self.info is None else self.info.to_json()
        return json.dumps({"schema": SCHEMA, **vars(self), "info": info})

    @classmethod
    def of_text(cls, text: str, root: object) -> Header:
        """RunError if an older version of kc wrote it, ValueError or TypeError if it is not what was written."""
        body = json.loads(text)
        schema = body.pop("schema", SCHEMA - 1)
        if schema != SCHEMA:
            raise outdated(root, schema)
        return cls(**{**body, "info": MemoryInfo.from_json(body["info"])})


class Version(NamedTuple):
    """The commit `seq` that is the version of `task`."""

    task: int
    seq: int


@dataclass(frozen=True)
class Marker:
    """The present, replaced as one entity: what is beyond `head` is not committed.

    `number`: newest change, never reused. `head`: the commit that is shown now (a rollback sets it back). `rewrites`
    grows when old states are destroyed, so that a reader can tell. `versions`: oldest first.
    """

    number: int = 0
    head: int = 0
    next_id: int = 0
    next_state: int = 0
    rewrites: int = 0
    versions: tuple[Version, ...] = ()


# -- filters -----------------------------------------------------------------------------------------------------------


def visible(seq: int) -> str:
    """The memory as it is at commit `seq`."""
    return f"added <= {seq} and removed > {seq}"


def latest(seq: int) -> str:
    """The one state of each row, retired ones too, that is the last at commit `seq`."""
    return f"added <= {seq} and (superseded == false or removed > {seq})"


def matching(criteria: Mapping[str, Any]) -> str | None:
    """Rows that meet every criterion (`stored_criteria`), empty for no criterion; None where one names nothing."""
    parts = []
    for name, values in criteria.items():
        if len(values) == 0:
            return None
        if name in ("source", "sample_id"):
            parts.append(named_one_of("source" if name == "source" else "sample", map(digest, values)))
        else:
            parts.append(f"{'id' if name == 'ids' else name} in {values.tolist()}")
    return " and ".join(parts)


def named_one_of(column: str, digests: Iterable[str]) -> str:
    """Rows whose `sample` or `source` has one of these digests."""
    listed = ", ".join(f'"{d}"' for d in sorted(digests))
    return f"{column}_hash in [{listed}]"


def digest(name: str) -> str:
    """Stands for a name in filters: 128 bits of SHA-256, so that no name needs quoting."""
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]


# -- entities ----------------------------------------------------------------------------------------------------------


def entities(table: Table, first_state: int) -> Iterator[dict[str, Any]]:
    """Rows as states that begin with the commit `table.added`."""
    for i in range(len(table)):
        yield {
            "state": first_state + i,
            "id": int(table.ids[i]),
            "class_id": int(table.class_id[i]),
            "task": int(table.task[i]),
            "segment": int(table.segment[i]),
            "added": int(table.added[i]),
            "removed": FOREVER,
            "weight": float(table.weight[i]),
            "superseded": False,
            "key": table.vectors[i],
            **named("sample", table.sample[i]),
            **named("source", table.source[i]),
        }


def named(column: str, name: str) -> dict[str, str]:
    """A name as it is stored: JSON in ASCII (file names may hold what is no UTF-8), and its digest."""
    text = json.dumps(name)
    if len(text) > TEXT:
        raise ValueError(f"a name of {len(text)} characters; Milvus stores at most {TEXT}")
    return {column: text, f"{column}_hash": digest(name)}


def stored_name(text: str) -> str:
    """The name that `named` stored."""
    name: str = json.loads(text)
    return name


def table_of(found: Sequence[Mapping[str, Any]], dim: int) -> Table:
    """Entities with every column, in their order."""
    columns: dict[str, Any] = {
        name: np.array([e[name] for e in found], np.int64) for name in ("class_id", "task", "added", "segment")
    }
    for name in ("sample", "source"):
        columns[name] = NameColumn.of([e[name] for e in found]).renamed(lambda texts: list(map(stored_name, texts)))
    return Table(
        vectors=np.array([e["key"] for e in found], np.float32).reshape(-1, dim),
        ids=np.array([e["id"] for e in found], np.int64),
        weight=np.array([e["weight"] for e in found], np.float32),
        **columns,
    )
