"""Class labels from the boxes of Pascal VOC's XML, one file an image (Everingham et al. 2010)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from kc.data.manifest import Manifest
from kc.data.readers.base import (
    ItemReader,
    LayoutError,
    Reader,
    inside,
    list_files,
    one_class_each,
    read_image,
    read_lines,
)
from kc.data.readers.labelled_files import LabelledFile, LabelledFiles
from kc.data.sources import VocXmlSource
from kc.data.splits import VocXmlSplit
from kc.errors import DataError, nearest
from kc.types import BoolArray, Sample, SplitName

Box = tuple[int, int, int, int]
"""xmin, ymin, xmax, ymax in pixels from 1, the last ones included, as VOC writes them."""


@dataclass(frozen=True)
class VocObject:
    """One object of an XML file: the column of its class in manifest order, and its box."""

    column: int
    box: Box

    @property
    def area(self) -> int:
        """Pixels of the box."""
        left, top, right, bottom = self.box
        return (right - left + 1) * (bottom - top + 1)


def open_voc_xml(manifest: Manifest, split: SplitName, root: Path) -> Reader:
    """The images, or the boxes, of a split, in the order of its list, else of the file names.

    Raises:
        DataError: a folder or the list is missing, or nothing is left.
        LayoutError: XML that cannot be read, of an unknown class, without an object, or without its image.
    """
    part, source = manifest.splits[split], manifest.source
    assert isinstance(part, VocXmlSplit)
    assert isinstance(source, VocXmlSource)
    images = {PurePosixPath(file).stem: file for file in list_files(root, part.images)}
    column_of = {name: i for i, name in enumerate(manifest.names_in_files())}
    problems: list[str] = []
    found: dict[str, list[VocObject]] = {}
    for name in _names(root, part):
        path = inside(root, f"{part.annotations}/{name}.xml")
        if name not in images:
            problems.append(f"{path}: no image {name} in {root / part.images}")
            continue
        try:
            found[name] = read_objects(path, column_of, source.difficult)
        except DataError as error:
            problems.append(str(error))
            continue
        if not found[name]:
            problems.append(f"{path}: no object that counts, so the image has no class")
    if problems:
        raise LayoutError(problems)
    if source.take == "boxes":
        boxes = tuple(
            BoxItem(images[name], o.column, f"{name}/{i}", o.box)
            for name, objects in found.items()
            for i, o in enumerate(objects)
        )
        return BoxReader(manifest, split, boxes, root)
    items = []
    for name, objects in found.items():
        if source.take == "largest" or len({o.column for o in objects}) == 1:
            largest = max(objects, key=lambda o: o.area)
            items.append(LabelledFile(images[name], largest.column, PurePosixPath(images[name]).name))
    if not items:
        raise DataError(
            f"{root / part.annotations}: no image whose objects are all of one class; take: largest or boxes"
        )
    return LabelledFiles(manifest, split, tuple(items), root)


def _names(root: Path, part: VocXmlSplit) -> list[str]:
    if part.names is None:
        files = list_files(root, part.annotations, frozenset({".xml"}))
        names = [PurePosixPath(file).stem for file in files]
    else:
        # Lists of one class hold a second column: 1, -1, 0.
        names = [text.split()[0] for _, text in read_lines(root, part.names)]
    if not names:
        raise DataError(f"{root / (part.names or part.annotations)}: no XML file is named there")
    return list(dict.fromkeys(names))


def read_objects(path: Path, column_of: dict[str, int], difficult: bool) -> list[VocObject]:
    """The objects of an XML file; `difficult`: also those marked so. Raises DataError."""
    try:
        tree = ElementTree.parse(path)
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: cannot read this annotation ({error})") from error
    objects = []
    for node in tree.iter("object"):
        name = (node.findtext("name") or "").strip()
        if name not in column_of:
            close = nearest(name, column_of, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise DataError(f"{path}: an object of {name!r}, which is no class{hint}")
        if (node.findtext("difficult") or "0").strip() == "1" and not difficult:
            continue
        try:
            left, top, right, bottom = (
                round(float(node.findtext(f"bndbox/{side}") or "")) for side in ("xmin", "ymin", "xmax", "ymax")
            )
        except ValueError as error:
            raise DataError(f"{path}: an object of {name!r} without a bndbox of four numbers") from error
        if right < left or bottom < top:
            raise DataError(f"{path}: an object of {name!r} has the empty box {left, top, right, bottom}")
        objects.append(VocObject(column_of[name], (left, top, right, bottom)))
    return objects


@dataclass(frozen=True)
class BoxItem(LabelledFile):
    """An object of an image."""

    box: Box


@dataclass(frozen=True)
class BoxReader(ItemReader[BoxItem]):
    """Objects cut out of their images, one sample each. No `image_file`: a sample is a part of a file."""

    root: Path

    @cached_property
    def class_table(self) -> BoolArray:
        """(n, C) bool, one True a row."""
        return one_class_each([item.column for item in self.items], len(self.manifest.classes))

    def read(self, index: int) -> Sample:
        """The box's part of the image with its class id as `label`. Raises DataError for a box beside the image."""
        item = self.items[index]
        image = read_image(self.root, item.image)
        left, top, right, bottom = item.box
        part = image[max(0, top - 1) : bottom, max(0, left - 1) : right]
        if not part.size:
            height, width = image.shape[:2]
            raise DataError(f"{self.root / item.image}: the box {item.box} lies beside the image of {width}x{height}")
        return Sample(self.sample_ids[index], part.copy(), label=self.manifest.classes[item.column].id)
