"""What every reader offers, and what readers share: ids, label maps, class tables, and what stops a split."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable
from unicodedata import normalize

import numpy as np

from kc.data.manifest import Manifest
from kc.data.readers.files import check_same_size, read_turned, turned_with
from kc.data.readers.mask_values import ValueTable
from kc.errors import DataError, nearest
from kc.outside import inside
from kc.types import BoolArray, Int32Array, Int64Array, Sample, SplitName, UInt8Array

_SHOWN = 5
_PARTICULAR = re.compile(r"'[^']*'|\S*[/\\\d]\S*")
"""What two problems of one reason differ in: names in quotes, paths and numbers."""


class LayoutError(DataError):
    """Files of a split that are missing, superfluous or not what the manifest says: `problems` names each of them,
    `obtain` says how to get the data."""

    def __init__(self, problems: Sequence[str], obtain: str = "") -> None:
        self.problems, self.obtain = tuple(problems), obtain
        lines = list(problems) if len(problems) <= _SHOWN else summed(problems)
        more = len(lines) - _SHOWN
        rest = [f"... and {more} more; `kc data check --all` lists them"] if more > 0 else []
        rest += [f"How to get the data: {obtain}"] if obtain else []
        super().__init__("\n  ".join([*lines[:_SHOWN], *rest]))

    def __reduce__(self) -> tuple[type[LayoutError], tuple[tuple[str, ...], str]]:
        return LayoutError, (self.problems, self.obtain)  # an error of a loader's worker crosses processes


def summed(problems: Iterable[str], examples: int = 1) -> list[str]:
    """The first `examples` problems of each reason, the last of them with the number of those that are left out."""
    reasons: dict[str, list[str]] = {}
    for problem in problems:
        reasons.setdefault(_PARTICULAR.sub("*", problem), []).append(problem)
    lines = []
    for alike in reasons.values():
        more = len(alike) - examples
        lines += [*alike[: examples - 1], f"{alike[examples - 1]} (and {more:,} more like it)"] if more > 0 else alike
    return lines


class Reader(Protocol):
    """Random access to the labelled images of one split, in a fixed order.

    `sample_ids`: unique in the benchmark ("train/0001TP_006690"). `class_table` (n, C) bool: which manifest classes
    (columns in manifest order) each sample holds.
    """

    @property
    def sample_ids(self) -> Sequence[str]: ...

    @property
    def class_table(self) -> BoolArray: ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """The sample at its original resolution. Raises DataError, naming the file, if it does not fit."""
        ...

    def select(self, indices: Sequence[int]) -> Self:
        """A reader of only these samples, in this order."""
        ...


@runtime_checkable
class HasOwnerIds(Protocol):
    """A reader whose images have numbers, or names, of their owner's: COCO's `image_id`."""

    def owner_id(self, index: int) -> int | str:
        """What the owner's annotation file calls an image."""
        ...


@runtime_checkable
class HasImageFiles(Protocol):
    """A reader whose images are files, one each."""

    def image_file(self, index: int) -> Path:
        """The file of an image."""
        ...


Item = TypeVar("Item")


@dataclass(frozen=True)
class ItemReader(Generic[Item]):
    """A reader whose samples are `items`, one each.

    A format says `image` and `where`, and of its labels `column` (classification), `semantic` or `panoptic`; `held`
    where it knows the classes of a sample without reading its label map.
    """

    manifest: Manifest
    split: SplitName
    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    def name(self, item: Item) -> str:
        """What the item is called, unique in the split."""
        return str(getattr(item, "name", item))

    @cached_property
    def sample_ids(self) -> list[str]:
        """ "SPLIT/NAME"."""
        return [f"{self.split}/{self.name(item)}" for item in self.items]

    def select(self, indices: Sequence[int]) -> Self:
        """A reader of only these samples, in this order."""
        return replace(self, items=tuple(self.items[i] for i in indices))

    def where(self, index: int) -> str:
        """What errors call the image."""
        return self.sample_ids[index]

    def where_labels(self, index: int) -> str:
        """What errors call the label map."""
        return f"the label map of {self.where(index)}"

    def image(self, index: int) -> UInt8Array:
        """(H, W, 3) uint8 RGB."""
        raise NotImplementedError

    def turned_image(self, index: int) -> tuple[UInt8Array, int]:
        """The image, and the EXIF orientation from which it was turned upright: 1 where it is as stored."""
        return self.image(index), 1

    def labels_upright(self, index: int) -> bool:
        """Whether a label map is known to be of the upright image, whatever orientation the stored one has."""
        return False

    def column(self, index: int) -> int:
        """The class of an image, by its position in the manifest."""
        item: Any = self.items[index]
        return int(item.column)

    def semantic(self, index: int) -> Int64Array:
        """The label map (H, W) of class ids and VOID."""
        return self.panoptic(index)[0][..., 0].astype(np.int64)

    def panoptic(self, index: int) -> tuple[Int32Array, frozenset[int]]:
        """The map (H, W, 2) of class id and instance number, and the instance numbers that are crowds."""
        raise NotImplementedError

    def held(self, index: int) -> Iterable[int]:
        """Ids of the classes in a label map, and perhaps VOID."""
        found: list[int] = np.unique(self.semantic(index)).tolist()
        return found

    @property
    def others(self) -> int | None:
        """What a value of a mask becomes that is neither a class nor ignored; None: it is an error."""
        return None

    @cached_property
    def values(self) -> ValueTable:
        """What the values of masks mean."""
        return ValueTable(self.manifest, self.others)

    @cached_property
    def class_table(self) -> BoolArray:
        """(n, C) bool."""
        ids = self.manifest.class_ids()
        table = np.zeros((len(self), len(ids)), dtype=np.bool_)
        if self.manifest.task_kind == "classification":
            table[np.arange(len(self)), [self.column(i) for i in range(len(self))]] = True
            return table
        column = {class_id: i for i, class_id in enumerate(ids)}
        for row in range(len(self)):
            table[row, [column[class_id] for class_id in self.held(row) if class_id in column]] = True
        return table

    def read(self, index: int) -> Sample:
        """The sample at its original resolution. Raises DataError, naming the files, where its parts do not fit."""
        return self.sample(index, *self.turned_image(index))

    def sample(
        self,
        index: int,
        image: UInt8Array,
        orientation: int = 1,
        *,
        column: int | None = None,
        semantic: Int64Array | None = None,
    ) -> Sample:
        """The sample of an image and its label, which is read unless it is given. Raises DataError as `read`."""
        name, kind = self.sample_ids[index], self.manifest.task_kind
        if kind == "classification":
            column = self.column(index) if column is None else column
            return Sample(name, image, label=self.manifest.classes[column].id)
        panoptic, crowd = self.panoptic(index) if kind == "panoptic" else (None, frozenset[int]())
        if semantic is None:
            semantic = self.semantic(index) if panoptic is None else panoptic[..., 0].astype(np.int64)
        if orientation != 1 and not self.labels_upright(index):
            names = self.where(index), image, orientation, self.where_labels(index)
            semantic = turned_with(*names, semantic)
            panoptic = None if panoptic is None else turned_with(*names, panoptic)
        check_same_size(self.where(index), image, self.where_labels(index), semantic)
        return Sample(name, image, semantic=semantic, panoptic=panoptic, crowd=crowd)


class ImageItem(Protocol):
    """An item with an image file of its own, `image`, relative to the root."""

    @property
    def image(self) -> str: ...


FileItem = TypeVar("FileItem", bound=ImageItem)


@dataclass(frozen=True)
class FileReader(ItemReader[FileItem]):
    """A reader of image files below `root`; items have a `name`, unique in the split (`unique_names`)."""

    root: Path

    def where(self, index: int) -> str:
        return f"{self.root}/{self.items[index].image}"

    def image(self, index: int) -> UInt8Array:
        return self.turned_image(index)[0]

    def turned_image(self, index: int) -> tuple[UInt8Array, int]:
        return read_turned(self.root, self.items[index].image)

    def image_file(self, index: int) -> Path:
        """The file of an image."""
        return inside(self.root, self.items[index].image)


@dataclass(frozen=True)
class LabelledArrays(ItemReader[int]):
    """Images of one array with one class each; `images` (n, H, W, 3) uint8 RGB, `labels` (n,) class ids."""

    images: UInt8Array
    labels: Int64Array

    def name(self, item: int) -> str:
        """The number of the image, five digits."""
        return f"{item:05d}"

    def column(self, index: int) -> int:
        return self.manifest.class_ids().index(int(self.labels[self.items[index]]))

    def image(self, index: int) -> UInt8Array:
        return np.array(self.images[self.items[index]])


def unique_names(files: Sequence[str], folder: str, numbers: Sequence[int | str] | None = None) -> list[str]:
    """A name for each file, in order: its path below `folder` without the ending.

    The ending stays where two would be equal (`0.bmp`, `0.png`). `numbers`: what tells one file that is listed twice
    apart (`0@17`).
    """
    whole = [file.removeprefix(f"{folder}/") for file in files]
    short = [os.path.splitext(name)[0] for name in whole]
    taken = Counter(os.path.splitext(name)[0] for name in {*whole}) + Counter({*whole})
    names = [s if taken[s] == 1 + (s == w) else w for s, w in zip(short, whole, strict=True)]
    if numbers is None:
        return names
    times = Counter(names)
    return [n if times[n] == 1 else f"{n}@{number}" for n, number in zip(names, numbers, strict=True)]


def check_ids(reader: Reader) -> None:
    """Raise LayoutError where two samples of a reader have one id: what is kept by id would be that of either."""
    ids = reader.sample_ids
    if len(set(ids)) == len(ids):
        return
    first: dict[str, int] = {}
    pairs = [(first[name], i) for i, name in enumerate(ids) if first.setdefault(name, i) != i]
    where = getattr(reader, "where", lambda i: f"sample {i}")
    raise LayoutError(
        [f"{where(a)} and {where(b)}: two samples have the id {ids[a]!r}; rename or remove one" for a, b in pairs]
    )


def columns_of(manifest: Manifest, *, ids: bool = False) -> dict[str, int]:
    """Position of each class by what files call it; `ids`: also by its name and, where no name is the same, its id."""
    names = {normalize("NFC", name): i for i, name in enumerate(manifest.names_in_files())}
    if not ids:
        return names
    columns = {str(class_id): i for i, class_id in enumerate(manifest.class_ids())}
    return columns | {normalize("NFC", name): i for i, name in enumerate(manifest.class_names())} | names


def column_of(label: Any, columns: Mapping[Any, int], where: str, manifest: Manifest) -> int:
    """The position of the class that `where` calls `label`. Raises DataError, with the nearest valid name."""
    label = normalize("NFC", label) if isinstance(label, str) else label
    if label in columns:
        return columns[label]
    close = nearest(str(label), map(str, columns), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DataError(f"{where}: label {label!r} is no class of {manifest.name}{hint}")


def complete(items: Iterable[Item], problems: Sequence[str], empty: str) -> tuple[Item, ...]:
    """All items of a split. Raises LayoutError of `problems`, DataError saying `empty` where there are no items."""
    if problems:
        raise LayoutError(problems)
    found = tuple(items)
    if not found:
        raise DataError(empty)
    return found
