"""The reading half of `MemoryStore`: what every memory can be read for, on disk and in Milvus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kc.errors import FingerprintError, RunError, UnknownNameError
from kc.memory.store.info import MemoryInfo
from kc.memory.store.inputs import Ids, Names, stored_criteria
from kc.memory.store.manifest import VersionInfo
from kc.memory.store.table import Labels, RowTable, Table
from kc.types import Float32Array, Int64Array, Neighbours


class About(Protocol):
    """What a store keeps beside its rows; empty `salt`: names are kept as they are."""

    @property
    def dim(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def salt(self) -> str: ...
    @property
    def info(self) -> MemoryInfo | None: ...


class TaskCommit(Protocol):
    """A version: the task it is named after, and the number of its commit."""

    @property
    def task(self) -> int: ...
    @property
    def seq(self) -> int: ...


class MemoryReader(ABC):
    """One committed state of a memory, its versions, and search over them."""

    path: Path

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _about(self) -> About: ...

    @property
    @abstractmethod
    def _next_id(self) -> int:
        """Ids below it were given out."""

    @property
    def dim(self) -> int:
        """Values of a key."""
        return self._about.dim

    @property
    def fingerprint(self) -> str:
        """The encoder that made the keys: architecture, weights and preprocessing."""
        return self._about.fingerprint

    @property
    def info(self) -> MemoryInfo:
        """How the keys were made and how the memory is asked. RunError where it was made without a record of that."""
        if self._about.info is None:
            raise RunError(
                f"{self.path} does not say how its keys were made, so nothing new can be encoded for it: build it "
                "again with kc run, kc memory build or kc remember (or pass `info` to `create`)"
            )
        return self._about.info

    @property
    def class_names(self) -> dict[int, str]:
        """Class id -> name; empty where the memory was made without `info`."""
        return {} if self._about.info is None else self._about.info.class_names

    @property
    def background_ids(self) -> list[int]:
        """Classes that stand for all that is not named; empty where the memory was made without `info`."""
        info = self._about.info
        return [] if info is None else [c.id for c in info.classes.values() if c.background]

    @property
    def anonymous(self) -> bool:
        """Whether names of samples and sources are kept as hashes only (see `kc.memory.store.inputs`)."""
        return bool(self._about.salt)

    @abstractmethod
    def __len__(self) -> int:
        """Committed rows that are visible now."""

    @abstractmethod
    def _n_rows(self, at: int | None) -> int:
        """Rows that are visible now, or at the version of task `at`."""

    @property
    @abstractmethod
    def _commits(self) -> Sequence[TaskCommit]:
        """Task and commit of each version, oldest first."""

    @property
    @abstractmethod
    def _head(self) -> int:
        """Number of the commit that is shown now."""

    @property
    @abstractmethod
    def current(self) -> bool:
        """Whether this is the newest commit: False as soon as another process, or object, has made one."""

    def _version(self, task: int) -> TaskCommit:
        """Task and commit of the version of `task`; UnknownNameError lists the versions there are."""
        for version in self._commits:
            if version.task == task:
                return version
        known = ", ".join(str(v.task) for v in self._commits) or "none"
        raise UnknownNameError(f"the memory has no version of task {task}; versions: {known}")

    def _seq(self, at: int | None) -> int:
        """Number of the commit that is shown now, or of the version of task `at`; UnknownNameError without it."""
        return self._head if at is None else self._version(at).seq

    @abstractmethod
    def configure(self, *args: Any, **kwargs: Any) -> None:
        """Search otherwise from now on; each store has its own settings."""

    @abstractmethod
    def versions(self) -> tuple[VersionInfo, ...]:
        """One a committed task, oldest first."""

    @abstractmethod
    def snapshot(self, task: int) -> VersionInfo:
        """The version of `task`: commit number and visible rows. UnknownNameError if the task was not committed."""

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Counts and sizes: rows (visible), rows_total (stored), bytes (of rows, changes and what is derived from
        them), dim, fingerprint, classes, versions (tasks), plan and its reason, index (its kind, rows, effort and
        measured recall) if one is in use."""

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
        given = {"class_id": class_id, "source": source, "task": task, "sample_id": sample_id}
        return self._ids(stored_criteria(given, self._about.salt), at, retired)

    @abstractmethod
    def _ids(self, criteria: Mapping[str, Any], at: int | None, retired: bool) -> Int64Array: ...

    @abstractmethod
    def labels(self, at: int | None = None) -> Labels:
        """Id, class, task and weight of the visible rows, now or at the version of task `at`, ids ascending."""

    @abstractmethod
    def keys(self, ids: Ids) -> Float32Array:
        """(N, D) float32 keys of rows, in the order asked. ValueError names an id that is not stored."""

    @abstractmethod
    def rows_of(self, ids: Ids) -> RowTable:
        """What is known of rows, in the order asked, retired ones too. ValueError names an id that is not stored."""

    @abstractmethod
    def tables(self, at: int | None = None) -> Iterator[Table]:
        """The visible rows, ids ascending, a part at a time, with the class and weight they have then."""

    def derived(self, kind: str, at: int | None = None) -> Path | None:
        """Folder for files of one kind that are computed from the rows of this state; None where they must not be kept.

        Only a writer keeps files: one that a reader leaves behind could outlive an erase.
        """
        return None

    @abstractmethod
    def verify(self) -> dict[str, Any]:
        """Check what is stored against its checksums, and counts and ids against each other.

        Returns {"files", "bytes", "rows", "orphans"}; orphans are what a crash left (harmless, the next writer removes
        them). Raises CorruptMemoryError naming all that does not fit.
        """

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
        self._check_encoder(fingerprint)
        criteria = stored_criteria({"class_id": classes, "task": tasks, "source": sources}, self._about.salt)
        return self._search(queries, k, criteria, at, exclude_ids)

    @abstractmethod
    def _search(
        self, queries: object, k: int, criteria: Mapping[str, Any], at: int | None, exclude_ids: object
    ) -> Neighbours: ...

    def _check_encoder(self, fingerprint: str | None) -> None:
        check_encoder(self.path, self.fingerprint, fingerprint)


def check_encoder(root: object, stored: str, fingerprint: str | None) -> None:
    """FingerprintError, naming both, if `fingerprint` is given and is not the `stored` one of the memory in `root`."""
    if fingerprint is not None and fingerprint != stored:
        raise FingerprintError(
            f"{root} holds keys of encoder {stored!r}, but these are of {fingerprint!r}: "
            "use that encoder, or build another memory"
        )
