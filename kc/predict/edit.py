"""Add a name to a memory, or erase one; names are a table in its manifest, so name and rows are one commit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kc.config import RunConfig
from kc.errors import FingerprintError, KcError, unknown_name
from kc.memory.base import MemoryStore
from kc.memory.copies import Copies, erase_copies
from kc.memory.disk import Memory
from kc.memory.erasure import Absence, Traces, prove_absent, traces
from kc.methods.retrieval.visual_memory import REMEMBERED
from kc.predict.answer import pixels_in
from kc.predict.examples import ExampleImage
from kc.predict.names import clean_name, new_id
from kc.proposals.base import areas
from kc.session import Facts, Session, config_of_memory, name_of
from kc.types import BoolArray, Float32Array, Int64Array, Rows, Segments, UInt8Array


@dataclass(frozen=True)
class Added:
    """What was stored of one name: `rows` new rows from `images`; `known` rows were there already; `whole` masks held
    no region and became one region each."""

    class_id: int
    name: str
    images: int
    rows: int
    known: int
    whole: int


@dataclass
class Collected:
    """Rows of one name, their classes not set yet, see `Added`."""

    rows: list[Rows] = field(default_factory=list)
    images: int = 0
    whole: int = 0


@dataclass(frozen=True)
class Forgotten:
    """Rows that were erased, the proof, how many rows are left, and what was done about copies."""

    name: str
    rows: int
    left: int
    proof: Absence
    copies: Copies


def create(path: Path, config: RunConfig, facts: Facts) -> Session:
    """A new memory for things that are added by name. Raises what loading the encoder raises, RunError."""
    session = Session.open(config, facts)
    Memory.create(path, dim=session.dim, fingerprint=session.fingerprint, info=session.memory_info("knn")).close()
    return session


def open_session(path: Path) -> Session:
    """What makes keys for the memory in `path`. Raises FingerprintError where they would not fit."""
    memory = Memory.open(path)
    info = memory.info
    session = Session.open(config_of_memory(info), Facts.of_memory(info))
    if session.fingerprint != memory.fingerprint:
        raise FingerprintError(
            f"{path} holds keys of {memory.fingerprint!r}, its settings make {session.fingerprint!r}"
        )
    return session


def remember(
    path: Path, session: Session, examples: Iterable[tuple[str, ExampleImage]], outside: str | None = None
) -> list[Added]:
    """Store what `examples`, (name, picture), show, see `collect` and `store`."""
    return store(path, collect(session, examples, outside))


def collect(
    session: Session, examples: Iterable[tuple[str, ExampleImage]], outside: str | None = None, source: str = REMEMBERED
) -> dict[str, Collected]:
    """Name -> rows of what `examples`, (name, picture), show, and of what lies outside their masks under `outside`.

    A region becomes a row where most of its pixels are inside (the run's `purity`); a mask in which no region lies
    becomes a region itself. Raises KcError for a name that is none, or that is inside and outside.
    """
    found: dict[str, Collected] = {}
    rest_name = None if outside is None else clean_name(outside)
    purity = session.config.purity
    for given, shown in examples:
        name = clean_name(given)
        if name == rest_name:
            raise KcError(f"--outside {outside}: is what is inside too")
        own = found.setdefault(name, Collected())
        own.images += 1
        keys, segments = session.keys_of(shown.image)
        if segments is None:
            own.rows.append(_rows(shown, name, keys_of_box(session, shown), np.zeros(1, np.int64), source))
            continue
        inside = np.ones(len(segments), bool) if shown.mask is None else _chosen(segments, shown.mask, purity)
        if inside.any():
            own.rows.append(_rows(shown, name, keys[inside], np.flatnonzero(inside), source))
        else:
            assert shown.mask is not None
            own.whole += 1
            own.rows.append(_rows(shown, name, key_of_mask(session, shown.image, shown.mask), None, source))
        if rest_name is not None and shown.mask is not None:
            rest = _chosen(segments, ~shown.mask, purity) & ~inside
            others = found.setdefault(rest_name, Collected())
            others.images += 1
            others.rows.append(_rows(shown, rest_name, keys[rest], np.flatnonzero(rest), source))
    return found


def store(
    path: Path, collected: Mapping[str, Collected], task: int | None = None, dry_run: bool = False
) -> list[Added]:
    """Store names and rows in one commit, as the version of `task` (from 0; default: a new one); new names get an id.

    Rows that are stored already are not stored twice; where all are, nothing is committed. With `dry_run` only counts.
    """
    done = []
    with Memory.open(path, write=True) as memory:
        table = memory.class_names
        ids = {known: id_ for id_, known in table.items()}
        taken = [*table, *memory.rows_of(memory.ids(retired=True)).class_id.tolist()]
        for name in collected:
            if name not in ids:
                ids[name] = new_id([*taken, *ids.values()])
        if task is None:
            task = max((v.task for v in memory.versions()), default=-1) + 1
        for name, own in collected.items():
            n_rows = n_new = 0
            for part in own.rows:
                n_rows += len(part)
                n_new += memory.add(dataclasses.replace(part, class_id=np.full(len(part), ids[name], np.int64)), task)
            done.append(Added(ids[name], name, own.images, n_new, n_rows - n_new, own.whole))
        if not dry_run:
            with memory.with_info(memory.info.with_names({i: n for n, i in ids.items()})):
                if any(added.rows for added in done):
                    memory.commit(task)
    return done


def name_id(memory: MemoryStore, name: str) -> int:
    """The class id of a name of the memory. Raises UnknownNameError, with the nearest, for one that it lacks."""
    table, name = memory.class_names, clean_name(name)
    for id_, known in table.items():
        if known == name:
            return id_
    raise unknown_name("name", name, table.values())


def erase(memory: Memory, ids: Int64Array, class_id: int | None = None) -> Traces:
    """Erase rows from every version, and the name of `class_id`; returns what must be found in no file any more."""
    gone = traces(memory, ids, class_id)
    if class_id is None:
        memory.erase(ids)
        return gone
    names = {i: n for i, n in memory.class_names.items() if i != class_id}
    with memory.with_info(memory.info.with_names(names)):
        memory.erase(ids)
    return gone


def forget(path: Path, name: str) -> Forgotten:
    """Erase every row of `name` from every version, then the name, and look for what they were in all files.

    Raises UnknownNameError, with the nearest, for a name that is not in the table.
    """
    with Memory.open(path, write=True) as memory:
        class_id = name_id(memory, name)
        ids = memory.ids(class_id=[class_id], retired=True)
        gone = erase(memory, ids, class_id)
        return Forgotten(clean_name(name), len(ids), len(memory), prove_absent(path, gone), erase_copies(path, gone))


def keys_of_box(session: Session, shown: ExampleImage) -> Float32Array:
    """Key (1, D) of a whole image, or of the box around its mask where it has one."""
    image = shown.image
    if shown.mask is not None:
        y, x = np.flatnonzero(shown.mask.any(1)), np.flatnonzero(shown.mask.any(0))
        image = image[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
    return session.keys_of(image)[0]


def key_of_mask(session: Session, image: UInt8Array, mask: BoolArray) -> Float32Array:
    """Key (1, D) of `mask` (H, W) as one region of an image."""
    one = Segments((mask.shape[0], mask.shape[1]), np.ones(1, np.float32), masks=mask[None])
    return session.keys_of(image, one)[0]


def _chosen(segments: Segments, mask: BoolArray, purity: float) -> BoolArray:
    """(N,) bool: regions of which at least `purity` lies in `mask`."""
    inside: Int64Array = pixels_in(segments, mask)
    chosen: BoolArray = (inside > 0) & (inside >= purity * areas(segments))
    return chosen


def _rows(shown: ExampleImage, name: str, keys: Float32Array, segment: Int64Array | None, source: str) -> Rows:
    """Rows of one picture; `segment` None: a mask of its own, numbered by what it covers."""
    if segment is None:
        assert shown.mask is not None
        covered = int(name_of(np.packbits(shown.mask)[None]), 16) % 2**31
        segment = np.array([2**32 + covered], dtype=np.int64)
    # The content belongs to the name: another picture under the same file name is another picture.
    sample = f"{REMEMBERED}/{name}/{shown.file} {name_of(shown.image)}"
    kept = np.flatnonzero(keys.any(axis=1))  # a region of plain colour may have no feature at all
    return Rows(keys[kept], np.zeros(len(kept), np.int64), (sample,) * len(kept), segment[kept], source)
