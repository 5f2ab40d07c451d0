"""Data sets of Hugging Face `datasets`: a folder that `save_to_disk` wrote, Parquet files, or one of the hub by name.

Code that a data set brings along is never run: `trust_remote_code` is not passed, and `datasets` refuses it then.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kc.data.manifest import Manifest
from kc.data.readers.base import ItemReader, column_of, columns_of
from kc.data.readers.files import decode_mask, decode_turned
from kc.data.sources import HuggingFaceSource
from kc.data.splits import HuggingFaceSplit
from kc.errors import DataError, MissingExtraError
from kc.outside import inside
from kc.types import Int64Array, SplitName, UInt8Array


@dataclass(frozen=True)
class HuggingFaceReader(ItemReader[int]):
    """Rows of one table in its order. `root`: where image paths of the table may point below; None: nowhere.

    `columns`: a label as the table writes it (number or name) -> position of its class in the manifest.
    """

    table: Any
    root: Path | None
    columns: dict[Any, int]

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path | None) -> HuggingFaceReader:
        """Open the table.

        Raises:
            MissingExtraError: `datasets` is not installed.
            DataError: the data is not here, lacks a column, or has other classes than the manifest.
        """
        source = manifest.source
        assert isinstance(source, HuggingFaceSource)
        table = _table(manifest, split, root)
        for column in (source.image, source.label):
            if column not in table.column_names:
                raise DataError(
                    f"splits.{split} of {manifest.name}: no column {column!r}; "
                    f"its columns: {', '.join(table.column_names)}"
                )
        kinds = importlib.import_module("datasets")
        # Bytes, which our own careful reader decodes.
        for column in (source.image, source.label):
            if column == source.image or isinstance(table.features[column], kinds.Image):
                table = table.cast_column(column, kinds.Image(decode=False))
        is_label = manifest.task_kind == "classification"
        columns = _columns(manifest, table.features[source.label]) if is_label else {}
        return cls(manifest, split, tuple(range(len(table))), table, root, columns)

    def name(self, item: int) -> str:
        """The number of the row, from 0, seven digits."""
        return f"{item:07d}"

    def where(self, index: int) -> str:
        return f"row {self.items[index]} of splits.{self.split} of {self.manifest.name}"

    def image(self, index: int) -> UInt8Array:
        return self.turned_image(index)[0]

    def turned_image(self, index: int) -> tuple[UInt8Array, int]:
        stored = self.table[self.items[index]][self._source.image]
        return decode_turned(self._file(index, stored), self.where(index))

    def column(self, index: int) -> int:
        return column_of(self._labels[self.items[index]], self.columns, self.where(index), self.manifest)

    @cached_property
    def _labels(self) -> Any:
        """The column of labels alone: no image is decoded."""
        return self.table.with_format(None).select_columns([self._source.label])[:][self._source.label]

    def semantic(self, index: int) -> Int64Array:
        stored = self.table[self.items[index]][self._source.label]
        values = decode_mask(self._file(index, stored), self.where(index), channels=1)
        return self.values(values, self.where(index))

    @property
    def _source(self) -> HuggingFaceSource:
        assert isinstance(self.manifest.source, HuggingFaceSource)
        return self.manifest.source

    def _file(self, index: int, stored: Any) -> Path | io.BytesIO:
        if not isinstance(stored, dict):
            raise DataError(f"{self.where(index)}: no image")
        if stored["bytes"] is not None:
            return io.BytesIO(stored["bytes"])
        if self.root is None or not stored["path"]:
            raise DataError(f"{self.where(index)}: the image is not in the table ({stored['path']})")
        return inside(self.root, stored["path"])


def _table(manifest: Manifest, split: SplitName, root: Path | None) -> Any:
    part, source = manifest.splits[split], manifest.source
    assert isinstance(part, HuggingFaceSplit)
    assert isinstance(source, HuggingFaceSource)
    if importlib.util.find_spec("datasets") is None:
        raise MissingExtraError(f"{manifest.name} needs Hugging Face datasets: pip install 'kc-continual[huggingface]'")
    kinds = importlib.import_module("datasets")
    where = f"splits.{split} of {manifest.name}"
    try:
        if root is None:
            return kinds.load_dataset(source.name, source.config, split=part.part, revision=source.revision)
        if part.files:
            return kinds.Dataset.from_parquet([str(inside(root, file)) for file in part.files])
        found = kinds.load_from_disk(str(root))
    except Exception as error:  # a missing file, a foreign file, no network: each has errors of its own
        raise DataError(f"{where}: `datasets` cannot open it ({type(error).__name__}: {error})") from error
    if isinstance(found, kinds.Dataset):
        raise DataError(f"{where}: {root} holds one table; save a DatasetDict with a split {part.part!r}")
    if part.part not in found:
        raise DataError(f"{where}: {root} has no split {part.part!r}; its splits: {', '.join(found)}")
    return found[part.part]


def _columns(manifest: Manifest, feature: Any) -> dict[Any, int]:
    """Where the table numbers its classes, by their names; else a label is a class name or a class id."""
    names = columns_of(manifest, ids=True)
    numbered = getattr(feature, "names", None)
    if numbered is None:
        return {**{c.id: i for i, c in enumerate(manifest.classes)}, **names}
    where = f"the table of {manifest.name}"
    return {number: column_of(name, names, where, manifest) for number, name in enumerate(numbered)}
