"""Class labels from the boxes of Pascal VOC's XML, one file an image (Everingham et al. 2010)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from kc.data.manifest import Manifest
from kc.data.readers.base import ItemReader, LayoutError, Reader, column_of, columns_of, complete
from kc.data.readers.files import left_out, list_files, read_image, read_lines
from kc.data.readers.labelled_files import LabelledFile, LabelledFiles
from kc.data.sources import VocXmlSource
from kc.data.splits import VocXmlSplit
from kc.errors import DataError
from kc.outside import inside
from kc.types import SplitName, UInt8Array

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
    columns = columns_of(manifest)
    problems = [] if part.names else left_out(root, part.images)
    images: dict[str, str] = {}
    for file in list_files(root, part.images):
        first = images.setdefault(PurePosixPath(file).stem, file)
        if first != file:
            problems.append(f"{root / file}: has the same name as {root / first}; one XML file cannot be of both")
    found: dict[str, list[VocObject]] = {}
    names = _names(root, part)
    if part.names is None and (lost := sorted(images.keys() - set(names))):
        shown = ", ".join(images[name] for name in lost[:3])
        problems.append(
            f"{root / part.images}: {len(lost)} images have no XML file ({shown}); move them or list the others"
        )
    for name in names:
        path = inside(root, f"{part.annotations}/{name}.xml")
        if name not in images:
            problems.append(f"{path}: no image {name} in {root / part.images}")
            continue
        try:
            found[name] = read_objects(path, columns, manifest, source.difficult)
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
    empty = f"{root / part.annotations}: no image whose objects are all of one class; take: largest or boxes"
    return LabelledFiles(manifest, split, complete(items, (), empty), root)


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


def read_objects(path: Path, columns: dict[str, int], manifest: Manifest, difficult: bool) -> list[VocObject]:
    """The objects of an XML file; `difficult`: also those marked so. Raises DataError."""
    try:
        tree = ElementTree.parse(path)
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: cannot read this annotation ({error})") from error
    objects = []
    for node in tree.iter("object"):
        name = (node.findtext("name") or "").strip()
        column = column_of(name, columns, f"{path}", manifest)
        if (node.findtext("difficult") or "0").strip() == "1" and not difficult:
            continue
        try:
            left, top, right, bottom = (
                round(float(node.findtext(f"bndbox/{side}") or "")) for side in ("xmin", "ymin", "xmax", "ymax")
            )
        except (ValueError, OverflowError) as error:
            raise DataError(f"{path}: an object of {name!r} without a bndbox of four numbers") from error
        if right <= 1 and bottom <= 1:
            raise DataError(f"{path}: a box of {name!r} with all sides 1 or less: shares of the image? Give pixels")
        if right < left or bottom < top:
            raise DataError(f"{path}: an object of {name!r} has the empty box {left, top, right, bottom}")
        objects.append(VocObject(column, (left, top, right, bottom)))
    return objects


@dataclass(frozen=True)
class BoxItem(LabelledFile):
    """An object of an image."""

    box: Box


@dataclass(frozen=True)
class BoxReader(ItemReader[BoxItem]):
    """Objects cut out of their images, one sample each. No `image_file`: a sample is a part of a file."""

    root: Path

    def image(self, index: int) -> UInt8Array:
        """The box's part of the image. Raises DataError for a box beside it."""
        item = self.items[index]
        image = read_image(self.root, item.image)
        left, top, right, bottom = item.box
        part = image[max(0, top - 1) : bottom, max(0, left - 1) : right]
        if not part.size:
            height, width = image.shape[:2]
            raise DataError(f"{self.root / item.image}: the box {item.box} lies beside the image of {width}x{height}")
        return part.copy()
