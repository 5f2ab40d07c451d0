"""`MemoryStore`: what every memory promises, on disk (`kc.memory.disk`) and in Milvus, and what both do alike."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy.typing as npt

from kc.errors import RunError
from kc.memory.reader import MemoryReader
from kc.memory.store import exchange, inputs
from kc.memory.store.info import MemoryInfo
from kc.memory.store.inputs import Ids, Names
from kc.memory.store.lock import WriterLock
from kc.memory.store.staging import Staging, as_table, repeats
from kc.memory.store.table import Table
from kc.types import BoolArray, Int64Array, Rows


class MemoryStore(MemoryReader):
    """Rows of unit vectors (the keys), each with class, weight, sample, segment, source and task.

    A commit is all or nothing and names a version; a version is a predicate over stored rows, so `search(at=task)`
    replays the memory as it was then. One writer at a time, any number of readers; a reader keeps seeing the state it
    opened until its files are rewritten (erase, rollback, compact), and then says so. Use `create`, `open` or
    `open_or_create`, and close it (or use `with`). Everything that changes rows raises RunError unless the memory was
    opened for writing, by this process.
    """

    def __init__(self, path: Path, dim: int, lock: WriterLock | None, write: bool) -> None:
        self.path = path
        self._lock, self._write = lock, write
        self._pid = os.getpid()
        self._staging = Staging(dim)
        self._info: MemoryInfo | None = None
        """What the next commit says of the memory; None: what was said before."""

    # -- opening ----------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        dim: int,
        fingerprint: str,
        info: MemoryInfo | None = None,
        anonymous: bool = False,
        **options: Any,
    ) -> Self:
        """A new empty memory, open for writing, of keys of `dim` values that the encoder `fingerprint` makes.

        info: how its keys are made and how it is asked; whatever encodes images for the memory later reads it, so only
        a memory of vectors that nothing will be encoded for can do without.
        anonymous: names of samples and sources are stored as salted hashes only. They are still given in full to `add`,
        `remove`, `ids` and `search`; `rows_of` returns the hashes. `kc.memory.store.inputs` says what that protects.
        options: those of the store; `MilvusMemory` has `index`.

        Raises ValueError for a `dim` below 1, RunError if `path` holds a memory or anything else, or cannot be written.
        """
        if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= inputs.MOST_VALUES:
            raise ValueError(f"dim must be an integer from 1 to {inputs.MOST_VALUES:,}, got {dim}")
        return cls._create(Path(path), dim, fingerprint, info, inputs.new_salt() if anonymous else "", **options)

    @classmethod
    @abstractmethod
    def _create(
        cls, root: Path, dim: int, fingerprint: str, info: MemoryInfo | None, salt: str, *args: Any, **options: Any
    ) -> Self: ...

    @classmethod
    @abstractmethod
    def open(cls, path: str | Path, fingerprint: str | None = None, write: bool = False) -> Self:
        """Open a memory at its newest commit, for reading unless `write`. Takes the same time at any size.

        Raises RunError where there is none, FingerprintError if it holds keys of another encoder than `fingerprint`,
        MemoryLockedError if it has a writer, CorruptMemoryError naming what does not fit.
        """

    @classmethod
    @abstractmethod
    def exists(cls, path: str | Path) -> bool:
        """Whether there is a memory, whole or not."""

    @classmethod
    def open_or_create(
        cls,
        path: str | Path,
        *,
        dim: int,
        fingerprint: str,
        info: MemoryInfo | None = None,
        anonymous: bool = False,
        write: bool = True,
    ) -> Self:
        """The memory at `path`, made as `create` does if it does not exist.

        ValueError if it holds keys of another size, or is anonymous and should not be (or the other way round).
        """
        if write and not cls.exists(path):
            return cls.create(path, dim=dim, fingerprint=fingerprint, info=info, anonymous=anonymous)
        memory = cls.open(path, fingerprint=fingerprint, write=write)
        if (memory.dim, memory.anonymous) == (dim, anonymous):
            return memory
        memory.close()
        if memory.dim != dim:
            raise ValueError(f"{path} holds keys of {memory.dim} values, asked for {dim}")
        raise ValueError(f"{path} was made with anonymous={memory.anonymous}, which cannot be changed later")

    def close(self) -> None:
        """Drop what is staged and not committed, and give the lock back. A second call does nothing."""
        self._staging.clear()
        self._write = False
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process (a spawned DataLoader worker) is a reader of what is committed."""
        return _reopened, (type(self), self.path, self.fingerprint, self._settings)

    @property
    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Arguments of the last `configure`."""

    def _check_writer(self) -> None:
        if not self._write:
            raise RunError(f"{self.path} is open for reading (or closed): open it with write=True")
        if os.getpid() != self._pid:
            raise RunError(f"{self.path}: only the process that opened it writes (a forked one may read)")

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(self, rows: Rows, task: int, fingerprint: str | None = None) -> int:
        """Stage rows in RAM; they are searched from the next `commit` on. Returns how many were new.

        A row is known by its region, (sample_id, segment). One of a known region with the same class and key is
        skipped; any other replaces it at the commit, and versions before still show the old one. A row of a background
        class never replaces one of another class: hidden classes are labelled background too. A region that was retired
        may come back and gets a new id.

        Raises ValueError for a wrong shape, a class or task id below 0, keys that are not unit vectors, weights below 0
        or not finite; FingerprintError for another encoder.
        """
        self._check_writer()
        self._check_encoder(fingerprint)
        task = inputs.check_task(task)
        table = as_table(rows, task, self.dim)
        return self._stage([table], exchange.Header(len(rows), self.dim, self.fingerprint), "these rows")

    def merge(self, other: MemoryStore) -> int:
        """Stage the visible rows of another memory, in its order, with their class, weight, source and task of now.

        Returns how many were new, as `add` counts them: repeating it adds nothing. Call `commit` then; until it the new
        rows are held in RAM. Raises FingerprintError or ValueError if the other memory holds keys of another encoder or
        size, or names under a salt that this one does not know.
        """
        header = exchange.Header(len(other), other.dim, other.fingerprint, other._about.salt)
        return self._stage(other.tables(), header, other.path)

    def import_rows(self, path: str | Path) -> int:
        """Stage the rows of an exported file, all or none, as `merge` does; returns how many were new.

        Raises DataError for a file that is not a whole export, otherwise what `merge` does.
        """
        header, tables = exchange.read(Path(path))
        return self._stage(tables, header, path)

    def export(self, path: str | Path, at: int | None = None) -> int:
        """Write the visible rows, now or at the version of task `at`, to one .parquet or .npz file; returns how many.

        Versions and retired rows are not exported. A later `erase` does not reach that file, `kc forget` does while it
        lies there. That of an anonymous memory holds its salt, so that its rows are recognised elsewhere. Raises what
        `exchange.write` does.
        """
        exchange.note(self.path, Path(path))
        about = self._about
        header = exchange.Header(self._n_rows(at), about.dim, about.fingerprint, about.salt, about.info)
        exchange.write(Path(path), header, self.tables(at))
        return header.rows

    def _stage(self, tables: Iterable[Table], header: exchange.Header, origin: object) -> int:
        """Stage rows that come from `origin`; returns how many were new."""
        self._check_writer()
        self._check_encoder(header.fingerprint)
        fitting = exchange.fitting(tables, header, origin, self.dim, self._about.salt, self.path)
        return sum(map(self._stage_new, fitting))

    @abstractmethod
    def _stage_new(self, table: Table) -> int:
        """Stage the rows that `repeats` does not hold back; returns how many."""

    def _stay(self, ids: Int64Array, new: Table) -> BoolArray:
        return repeats(new, self.rows_of(ids).class_id, self.keys(ids), self.background_ids)

    def commit(self, task: int) -> int:
        """Make the staged rows durable and visible, all or none, and name this state the version of `task`.

        Returns the number of new rows. Repeating it changes nothing. Raises ValueError if rows are staged for a task
        before the newest version's (roll back first), RunError if they cannot be stored: then the staged rows are kept,
        the state before stays readable, and the commit can be repeated.
        """
        self._check_writer()
        task = inputs.check_task(task)
        newest, n_new = (self._commits[-1].task if self._commits else -1), len(self._staging)
        if task < newest:
            if n_new:
                raise ValueError(
                    f"task {newest} is already committed, so rows of task {task} would change what it saw: "
                    f"call rollback({task - 1}) first"
                )
            self._seq(task)
            return 0
        if task > newest or n_new or self._changed_since_newest():
            self._commit(task)
        return n_new

    @abstractmethod
    def _changed_since_newest(self) -> bool:
        """Whether what is visible may differ from the newest version."""

    @abstractmethod
    def _commit(self, task: int) -> None: ...

    def rollback(self, task: int) -> None:
        """Drop everything committed after the last version of a task <= `task` (all of it if there is none).

        Drops what is staged too. Ids of dropped rows are not used again. A resumed run that replays task t calls
        rollback(t - 1) first.
        """
        self._check_writer()
        self._staging.clear()
        self._rollback(sum(version.task <= task for version in self._commits))

    @abstractmethod
    def _rollback(self, n_kept: int) -> None:
        """Keep the first `n_kept` versions."""

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
        return self._remove(criteria) + self._staging.drop(criteria)

    def erase(
        self,
        ids: Ids | None = None,
        *,
        class_id: Ids | None = None,
        source: Names | None = None,
        task: Ids | None = None,
        sample_id: Names | None = None,
    ) -> int:
        """Remove rows from every version, retired ones too; returns how many. Classes are those of now.

        On disk no file of the memory holds their bytes when this returns: segments that hold them are written anew,
        derived files dropped (a crash before that is finished by the next writer). For Milvus see its module.
        """
        criteria = self._criteria(ids=ids, class_id=class_id, source=source, task=task, sample_id=sample_id)
        return self._erase(criteria) + self._staging.drop(criteria)

    def _criteria(self, **given: Any) -> dict[str, Any]:
        """The criteria that were given, as they are stored."""
        self._check_writer()
        return inputs.check_criteria(given, self._about.salt, self._next_id)

    @abstractmethod
    def _remove(self, criteria: Mapping[str, Any]) -> int: ...
    @abstractmethod
    def _erase(self, criteria: Mapping[str, Any]) -> int: ...

    def reweight(self, ids: Ids, weights: npt.ArrayLike) -> None:
        """Give visible rows new vote weights (>= 0; 0 hides a row from search), at once and durably."""
        self._check_writer()
        rows = inputs.distinct_ids(ids)
        self._change("weight", rows, inputs.check_weights(weights, len(rows)))

    def relabel(self, ids: Ids, class_ids: Ids) -> None:
        """Give visible rows new classes, at once and durably; versions committed before keep the old ones."""
        self._check_writer()
        rows = inputs.distinct_ids(ids)
        self._change("class_id", rows, inputs.check_classes(class_ids, len(rows)))

    @abstractmethod
    def _change(self, column: str, ids: Int64Array, values: npt.NDArray[Any]) -> None:
        """Give rows (N,) new values (N,) of `weight` or `class_id`; ValueError names one that is not visible."""

    @contextmanager
    def with_info(self, info: MemoryInfo) -> Iterator[None]:
        """Replace what the memory says of itself (the names of its classes) in the first commit that is made within, or
        in one of its own at the end; durably, all or none."""
        self._check_writer()
        self._info = info
        try:
            yield
            if info != self._about.info:
                self._update_info(info)
        finally:
            self._info = None

    @abstractmethod
    def _update_info(self, info: MemoryInfo) -> None: ...

    @abstractmethod
    def compact(self, history: bool = True) -> bool:
        """Store the same rows in less room; every version gives the same answers as before, bit by bit.

        Rows that no version and not the present shows are dropped, which is not erasing: use `erase` where no byte may
        stay behind. history=False keeps the present only, as the version of the newest task, and drops every row
        retired so far. Returns whether anything was rewritten. What is staged stays staged.
        """


def _reopened(kind: type[MemoryStore], path: Path, fingerprint: str, settings: dict[str, Any]) -> MemoryStore:
    memory = kind.open(path, fingerprint)
    memory.configure(**settings)
    return memory
