"""Rows in one file that other programs read: Parquet (extra `parquet`) or npz. Nothing is pickled.

Columns: id, key (D float32), class_id, task, weight, sample_id, segment, source. Beside them: the size of the keys and
the encoder's fingerprint. Ids are for the reader's information; whoever imports the rows gives them new ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from kc.errors import DataError, KcError, MissingExtraError, RunError
from kc.files import atomic_path, cache_dir, hashed_path, write_atomic
from kc.memory.store import files
from kc.memory.store.info import MemoryInfo
from kc.memory.store.inputs import hashed
from kc.memory.store.staging import checked
from kc.memory.store.table import NameColumn, Table, joined, names_in, no_rows
from kc.outside import parse_json, read_json

VERSION = 3
"""Version 1 counted classes around the reserved ids 254 and 255, version 2 had no checksum over all."""
_META, _SUM = "kc.memory", "kc.memory.sum"
_COLUMNS: dict[str, tuple[str, Any]] = {
    "id": ("ids", np.int64),
    "class_id": ("class_id", np.int64),
    "task": ("task", np.int64),
    "weight": ("weight", np.float32),
    "segment": ("segment", np.int64),
}
"""Name in the file -> name in `Table` and type, of the columns of numbers."""
_NAMES = {"sample_id": "sample", "source": "source"}
"""The same for the columns of names."""


@dataclass(frozen=True)
class Header:
    """What rows are: keys of `dim` values of the encoder `fingerprint`."""

    rows: int
    dim: int
    fingerprint: str
    salt: str = ""
    """Of an anonymous memory; without it the rows could not be distinguished from those of equal samples elsewhere."""
    info: MemoryInfo | None = None
    """What the memory says of itself."""


def write(path: Path, header: Header, tables: Iterable[Table]) -> None:
    """Write `header.rows` rows to `path` (.parquet or .npz) in one step; a file that is there is replaced.

    Raises ValueError for another ending, MissingExtraError without pyarrow, RunError if the file cannot be written.
    """
    writer, _ = _format(path)
    with atomic_path(path) as temporary:
        writer(temporary, header, tables, _Sum(_meta(header)))
    files.sync_folder(path.parent)


def read(path: Path) -> tuple[Header, list[Table]]:
    """Header and rows of a file; commit numbers are 0. Raises DataError for any file that `write` did not write."""
    _, reader = _format(path)
    try:
        text, tables, stored = reader(path)
        total = _Sum(text)
        tables = [total.add(table) for table in tables]
        if total.digest() != stored:
            raise ValueError("its checksum does not fit")
        meta = parse_json(text, str(path))
        version, info = meta.pop("version"), MemoryInfo.from_json(meta.pop("info", None))
        if version != VERSION:
            raise DataError(f"{path}: an export of version {version}, this kc reads {VERSION}: export the rows again")
        header = Header(**meta, info=info)
        tables = [_checked(table, header) for table in tables]
        if sum(len(t) for t in tables) != header.rows:
            raise ValueError(f"it holds {sum(len(t) for t in tables)} of {header.rows} rows")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except KcError:
        raise
    except Exception as error:  # whatever the parsers make of bytes that are not theirs
        raise DataError(f"{path}: not a whole export of a memory ({error})") from error
    return header, tables


def note(memory: Path, copy: Path) -> None:
    """Remember for `kc forget`, in this user's cache folder, that `copy` (a file, or another memory) has rows of a
    memory. Not in the memory: whoever made that could have any file looked through."""
    if copy.absolute() not in noted(memory):
        with contextlib.suppress(RunError):  # a copy that cannot be noted is a copy that kc does not know of
            text = json.dumps([*map(str, noted(memory)), str(copy.absolute())])
            write_atomic(_notes(memory), text.encode())


def noted(memory: Path) -> list[Path]:
    """The copies that `note` recorded, there or not."""
    try:
        return [Path(path) for path in read_json(_notes(memory))]
    except DataError:
        return []


def _notes(memory: Path) -> Path:
    return hashed_path(cache_dir() / "copies", os.path.realpath(memory), ".json")


def fitting(
    tables: Iterable[Table], header: Header, origin: object, dim: int, salt: str, root: object
) -> Iterator[Table]:
    """Rows from `origin` as the memory in `root`, of keys of `dim` values and names under `salt`, keeps them.

    ValueError for keys of another size, or names under a salt that the memory does not know.
    """
    if header.dim != dim:
        raise ValueError(f"{root} holds keys of {dim} values, {origin} of {header.dim}")
    if header.salt and header.salt != salt:
        raise ValueError(f"names in {origin} are anonymous under a salt that {root} does not have")
    for table in tables:
        if salt != header.salt:
            names = {kind: getattr(table, kind).renamed(lambda names: hashed(names, salt)) for kind in _NAMES.values()}
            table = replace(table, **names)
        yield table


class _Sum:
    """Checksum of all rows and of what is said of them. Formats have parts that no checksum of their own covers, as
    the footer of Parquet, and whatever changes there shows here."""

    def __init__(self, meta: str) -> None:
        self._meta = meta
        self._columns = {name: xxhash.xxh3_128() for name in ("key", *_COLUMNS, *_NAMES)}

    def add(self, table: Table) -> Table:
        """Count a table in; returns it."""
        arrays = {name: getattr(table, column) for name, (column, _) in _COLUMNS.items()} | {"key": table.vectors}
        for name, column in _NAMES.items():
            names: NameColumn = getattr(table, column)
            each = [xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass")) for text in names.names]
            arrays[name] = np.array(each, np.uint64)[names.codes]
        for name, array in arrays.items():
            self._columns[name].update(np.ascontiguousarray(array).tobytes())
        return table

    def digest(self) -> str:
        """Of the tables so far, however they are cut."""
        parts = [self._meta, *(f"{name} {digest.hexdigest()}" for name, digest in self._columns.items())]
        return xxhash.xxh3_128_hexdigest("\n".join(parts).encode())


def _format(path: Path) -> tuple[Callable[..., None], Callable[[Path], tuple[str, Iterable[Table], str]]]:
    if path.suffix == ".parquet":
        return _write_parquet, _read_parquet
    if path.suffix == ".npz":
        return _write_npz, _read_npz
    raise ValueError(f"{path.name}: rows are exchanged as .parquet or .npz")


def _checked(table: Table, header: Header) -> Table:
    """The rows as they are stored; ValueError if they cannot be."""
    n = len(table)
    for name, (column, dtype) in _COLUMNS.items():
        array: npt.NDArray[Any] = getattr(table, column)
        if array.shape != (n,) or array.dtype != dtype:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {(n,)}")
    if table.vectors.dtype != np.float32 or table.vectors.shape != (n, header.dim):
        raise ValueError(f"key is {table.vectors.dtype} {table.vectors.shape}, expected float32 {(n, header.dim)}")
    if not len(table.sample) == len(table.source) == n:
        raise ValueError("every row has a sample and a source")
    for names in (table.sample, table.source):
        if not all(isinstance(name, str) for name in names.names):
            raise ValueError("a sample or source has no name")
        if n and not (names.codes.min() >= 0 and names.codes.max() < len(names.names)):
            raise ValueError("a row has a name that the table of names lacks")
    if n and table.task.min() < 0:
        raise ValueError("tasks must be at least 0")
    return checked(table)


def _meta(header: Header) -> str:
    info = None if header.info is None else header.info.to_json()
    return json.dumps({"version": VERSION, **vars(header), "info": info})


# -- npz ---------------------------------------------------------------------------------------------------------------


def _write_npz(path: Path, header: Header, tables: Iterable[Table], total: _Sum) -> None:
    rest = [no_rows()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("key.npy", "w", force_zip64=True) as member:
            shape = (header.rows, header.dim)
            np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for table in map(total.add, tables):
                member.write(np.ascontiguousarray(table.vectors, "<f4").tobytes())
                rest.append(replace(table, vectors=rest[0].vectors))
        table = joined(rest)
        arrays = {name: getattr(table, column) for name, (column, _) in _COLUMNS.items()}
        for name, column in _NAMES.items():
            names = getattr(table, column).used()
            arrays |= {name: names.codes, f"{name}_names": np.frombuffer(names.to_bytes(), np.uint8)}
        arrays["meta"] = np.frombuffer(_meta(header).encode(), np.uint8)
        arrays["sum"] = np.frombuffer(total.digest().encode(), np.uint8)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_npz(path: Path) -> tuple[str, Iterable[Table], str]:
    with np.load(path, allow_pickle=False) as archive:
        meta, stored = (bytes(archive[name]).decode() for name in ("meta", "sum"))
        columns = {column: archive[name] for name, (column, _) in _COLUMNS.items()}
        for name, column in _NAMES.items():
            columns[column] = NameColumn(archive[name], names_in(bytes(archive[f"{name}_names"])))
        table = Table(vectors=archive["key"], added=np.zeros(len(columns["ids"]), np.int64), **columns)
    return meta, [table], stored


# -- Parquet -----------------------------------------------------------------------------------------------------------


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(f"Parquet needs pyarrow ({error}): pip install 'kc-continual[parquet]'") from error
    return pyarrow, parquet


def _write_parquet(path: Path, header: Header, tables: Iterable[Table], total: _Sum) -> None:
    pa, parquet = _pyarrow()
    fields = [(name, pa.from_numpy_dtype(dtype)) for name, (_, dtype) in _COLUMNS.items()]
    fields += [("key", pa.list_(pa.float32(), header.dim)), *((name, pa.string()) for name in _NAMES)]
    schema = pa.schema([pa.field(*f, nullable=False) for f in fields], metadata={_META: _meta(header)})
    # Unit vectors do not compress; names and numbers of few values do, by their dictionary.
    with parquet.ParquetWriter(path, schema, compression="none", write_page_checksum=True) as writer:
        for table in map(total.add, tables):
            arrays: list[Any] = [pa.array(getattr(table, column)) for column, _ in _COLUMNS.values()]
            keys = pa.array(np.ascontiguousarray(table.vectors).reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(keys, header.dim))
            for column in _NAMES.values():
                names = getattr(table, column)
                listed = pa.array(list(names.names), pa.string())
                arrays.append(pa.DictionaryArray.from_arrays(pa.array(names.codes), listed).dictionary_decode())
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        writer.add_key_value_metadata({_SUM: total.digest()})


def _read_parquet(path: Path) -> tuple[str, Iterable[Table], str]:
    _, parquet = _pyarrow()
    if not path.exists():
        raise FileNotFoundError(path)
    file = parquet.ParquetFile(path, page_checksum_verification=True)
    said = file.metadata.metadata or {}
    if not {_META.encode(), _SUM.encode()} <= said.keys():
        raise ValueError(f"its metadata lack {_META!r}")
    meta, stored = (said[name.encode()].decode() for name in (_META, _SUM))
    return meta, _row_groups(file, int(parse_json(meta, str(path))["dim"])), stored


def _row_groups(file: Any, dim: int) -> Iterator[Table]:
    for number in range(file.num_row_groups):
        group = file.read_row_group(number).combine_chunks()
        columns = {column: group.column(name).to_numpy() for name, (column, _) in _COLUMNS.items()}
        for name, column in _NAMES.items():
            names = group.column(name).combine_chunks().dictionary_encode()
            columns[column] = NameColumn(names.indices.to_numpy(zero_copy_only=False), names.dictionary.to_pylist())
        keys = group.column("key").combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        yield Table(vectors=keys, added=np.zeros(len(keys), np.int64), **columns)
