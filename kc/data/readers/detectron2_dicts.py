"""Read what detectron2's DatasetCatalog lists: dicts of files and annotations, in its standard format.

https://detectron2.readthedocs.io/tutorials/datasets.html
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kc.data.manifest import ClassSpec, Manifest
from kc.data.readers.base import ItemReader, unique_names
from kc.data.readers.drawn import Marked, painted
from kc.data.readers.files import check_area, read_mask, read_turned, says_orientation
from kc.data.splits import Detectron2Split
from kc.errors import DataError, MissingExtraError
from kc.types import VOID, Int32Array, Int64Array, SplitName, TaskKind, UInt8Array

Dicts = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Described:
    """What a data set of the catalog holds: the kind of its labels and its classes."""

    kind: TaskKind
    classes: tuple[ClassSpec, ...]


def catalogs() -> tuple[Any, Any]:
    """detectron2's DatasetCatalog and MetadataCatalog. Raises MissingExtraError where it is not installed."""
    if importlib.util.find_spec("detectron2") is None:
        raise MissingExtraError(
            "detectron2 is not installed, and it is not on the package registry: build it from its source "
            "(git clone https://github.com/facebookresearch/detectron2; pip install --no-build-isolation ./detectron2)"
        )
    data = importlib.import_module("detectron2.data")
    return data.DatasetCatalog, data.MetadataCatalog


def kind_of(dicts: Dicts, metadata: Any, name: str) -> Described:
    """Kind and classes of a data set. Raises DataError where it is empty or its dicts hold no masks."""
    if not dicts:
        raise DataError(f"the detectron2 data set {name!r} is empty")
    first = dicts[0]
    if "pan_seg_file_name" in first or "annotations" in first:
        return Described("panoptic", _panoptic_classes(metadata, "pan_seg_file_name" in first, name))
    if "sem_seg_file_name" in first:
        names = _names(metadata, "stuff_classes", name)
        return Described("semantic", tuple(ClassSpec(id=i, name=n) for i, n in enumerate(names)))
    raise DataError(
        f"the detectron2 data set {name!r} has neither pan_seg_file_name, sem_seg_file_name nor annotations; "
        f"its dicts hold {', '.join(sorted(first))}"
    )


def _names(metadata: Any, field: str, name: str) -> list[str]:
    names = metadata.get(field, None)
    if not names:
        raise DataError(f"the metadata of the detectron2 data set {name!r} has no {field}")
    return [str(n) for n in names]


def _panoptic_classes(metadata: Any, panoptic: bool, name: str) -> tuple[ClassSpec, ...]:
    classes: dict[int, ClassSpec] = {}
    for kind, thing in (("stuff", False), ("thing", True)) if panoptic else (("thing", True),):
        numbers = metadata.get(f"{kind}_dataset_id_to_contiguous_id", None)
        names = _names(metadata, f"{kind}_classes", name) if thing or numbers or not panoptic else []
        own = {i: i for i in range(len(names))} if numbers is None else numbers
        for class_id, contiguous in own.items():
            if not thing and names[contiguous] == "things":
                continue  # in detectron2's "separated" data sets one stuff class stands for all things
            classes[int(class_id)] = ClassSpec(id=int(class_id), name=names[contiguous], thing=thing)
    return tuple(classes[i] for i in sorted(classes))


@dataclass(frozen=True)
class Detectron2Reader(ItemReader[Mapping[str, Any]]):
    """The images of one data set of the catalog, in its order. `numbers`: (is thing, contiguous id) -> class id."""

    numbers: Mapping[tuple[bool, int], int]

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName) -> Detectron2Reader:
        """Ask the catalog, whose dicts name their files. Raises DataError for a name or classes that it has not."""
        part = manifest.splits[split]
        assert isinstance(part, Detectron2Split)
        datasets, metadata = catalogs()
        if part.dataset not in datasets.list():
            raise DataError(
                f"splits.{split} of {manifest.name}: detectron2 has no data set {part.dataset!r}; "
                "import the module that registers it first"
            )
        dicts, about = datasets.get(part.dataset), metadata.get(part.dataset)
        described = kind_of(dicts, about, part.dataset)
        missing = {c.name for c in described.classes} ^ set(manifest.class_names())
        if missing:
            raise DataError(
                f"{part.dataset}: its classes are not those of {manifest.name}: {', '.join(sorted(missing)[:10])}"
            )
        numbers = {}
        by_name = {c.name: c.id for c in manifest.classes}
        for kind, thing in (("stuff", False), ("thing", True)):
            for contiguous, name in enumerate(about.get(f"{kind}_classes", None) or []):
                if name in by_name:
                    numbers[thing, contiguous] = by_name[name]
        files = [str(d["file_name"]) for d in dicts]
        names = unique_names(files, os.path.commonpath([os.path.dirname(file) for file in files]) if files else "")
        items = tuple({**d, "image_id": d.get("image_id", name)} for d, name in zip(dicts, names, strict=True))
        return cls(manifest, split, items, numbers)

    def owner_id(self, index: int) -> int | str:
        """The image's id."""
        number: int | str = self.items[index]["image_id"]
        return number

    def name(self, item: Mapping[str, Any]) -> str:
        """The image's id; the path of its file where it has none."""
        return str(item["image_id"])

    def where(self, index: int) -> str:
        return str(self.items[index]["file_name"])

    def where_labels(self, index: int) -> str:
        found = self.items[index]
        field = "sem_seg_file_name" if self._has_map(index) else "pan_seg_file_name"
        return str(found.get(field, found["file_name"]))

    def _has_map(self, index: int) -> bool:
        return self.manifest.task_kind == "semantic" and "sem_seg_file_name" in self.items[index]

    def image(self, index: int) -> UInt8Array:
        return self.turned_image(index)[0]

    def turned_image(self, index: int) -> tuple[UInt8Array, int]:
        path = self.image_file(index)
        return read_turned(path.parent, path.name)

    def labels_upright(self, index: int) -> bool:
        labels = self.where_labels(index)
        return labels != self.where(index) and says_orientation(labels)

    def held(self, index: int) -> Iterable[int]:
        """From the dicts alone, unless their labels are a map."""
        if self._has_map(index):
            return super().held(index)
        found = self.items[index]
        return [self.class_of(segment) for segment in found.get("segments_info", found.get("annotations", ()))]

    def class_of(self, segment: Mapping[str, Any]) -> int:
        """Class id of one entry of segments_info or annotations."""
        thing = bool(segment.get("isthing", True))
        number = int(segment["category_id"])
        if (thing, number) not in self.numbers:
            raise DataError(f"{self.manifest.name}: category {number} is no {'thing' if thing else 'stuff'} class")
        return self.numbers[thing, number]

    def image_file(self, index: int) -> Path:
        """Where the image lies."""
        return Path(self.items[index]["file_name"])

    def files(self) -> list[str]:
        """Every image and label file."""
        fields = ("file_name", "sem_seg_file_name", "pan_seg_file_name")
        return [str(d[field]) for d in self.items for field in fields if field in d]

    def semantic(self, index: int) -> Int64Array:
        """The label map (H, W) int64 of class ids; what is no class number is VOID."""
        if not self._has_map(index):
            return super().semantic(index)
        path = Path(self.items[index]["sem_seg_file_name"])
        values = read_mask(path.parent, path.name, channels=1).astype(np.int64)
        table = np.full(max(len(self.manifest.classes), int(values.max(initial=0)) + 1), VOID)
        ids = [self.numbers[False, i] for i in range(len(self.manifest.classes))]
        table[: len(ids)] = ids
        semantic: Int64Array = table[values]
        return semantic

    def panoptic(self, index: int) -> tuple[Int32Array, frozenset[int]]:
        """The map (H, W, 2) of class id and instance number, and the instance numbers that are crowds."""
        found = self.items[index]
        if "pan_seg_file_name" not in found:
            marked = [
                Marked(self.class_of(a), a.get("segmentation"), bool(a.get("iscrowd")), f"annotation {i}")
                for i, a in enumerate(found["annotations"])
            ]
            check_area((int(found["height"]), int(found["width"])), self.where(index))
            return painted(marked, (int(found["height"]), int(found["width"])), self.where(index))
        path = Path(found["pan_seg_file_name"])
        rgb = read_mask(path.parent, path.name, channels=3).astype(np.int64)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        panoptic = np.stack([np.full(ids.shape, VOID), np.zeros_like(ids)], axis=-1).astype(np.int32)
        crowd, instance, things = set(), 0, set(self.manifest.thing_ids)
        for segment in found["segments_info"]:
            class_id = self.class_of(segment)
            instance += class_id in things
            number = instance if class_id in things else 0
            panoptic[ids == int(segment["id"])] = (class_id, number)
            if number and segment.get("iscrowd"):
                crowd.add(number)
        return panoptic, frozenset(crowd)
