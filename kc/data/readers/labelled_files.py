"""Classification from image files: one folder a class, a table with a header, or the lists of CUB-200-2011.

CUB: Wah et al. 2011, "The Caltech-UCSD Birds-200-2011 Dataset"; each line of its four lists is an id and a value.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from kc.data.manifest import Manifest
from kc.data.readers.base import FileReader, column_of, columns_of, complete
from kc.data.readers.files import IMAGE_SUFFIXES, NOT_READ, hidden, list_files, read_lines
from kc.data.sources import CsvSource, FolderSource
from kc.data.splits import CUB_LISTS, CsvSplit, CubSplit, FolderSplit
from kc.errors import DataError, ManifestError
from kc.outside import inside
from kc.types import SplitName


@dataclass(frozen=True)
class LabelledFile:
    """`image` relative to the root, `column` of its class in manifest order, `name` below the split, unique there."""

    image: str
    column: int
    name: str


@dataclass(frozen=True)
class LabelledFiles(FileReader[LabelledFile]):
    """Image files with one class each, in a fixed order. Names have suffixes: a folder may hold a.jpg and a.png."""


def open_folder(manifest: Manifest, split: SplitName, root: Path) -> LabelledFiles:
    """The images of the class folders, classes in manifest order, files sorted by name.

    Raises:
        LayoutError: a class folder is missing or empty, a folder is of no class of the manifest, an image lies in no
            class folder or is of a format that is not read.
    """
    part, source = manifest.splits[split], manifest.source
    assert isinstance(part, FolderSplit)
    assert isinstance(source, FolderSource)
    top = inside(root, part.path)
    if not top.is_dir():
        raise DataError(f"{top}: no such folder; splits.{split}.path of {manifest.name} expects it")
    for name in manifest.names_in_files():  # of a manifest, where a class may be called `../../home`
        if ".." in PurePosixPath(name).parts:
            inside(top, name)
        inside(root, PurePosixPath(part.path, name).as_posix())  # a link may lead elsewhere in the data
    folders = _on_disk(top, manifest.names_in_files())
    problems = [f"{path}: {said}" for path, said in _left_out(top, folders, source.skip, manifest.name)]
    items: list[LabelledFile] = []
    for column, folder in enumerate(folders):
        missing = not (top / folder).is_dir()
        files = [] if missing else _percent_of(list_files(root, f"{part.path}/{folder}"), part.share)
        if missing:
            problems.append(f"{top / folder}: no such folder; class {manifest.classes[column].name!r} expects it")
        elif not files:
            problems.append(f"{top / folder}: no image of class {manifest.classes[column].name!r}")
        items += [LabelledFile(file, column, str(PurePosixPath(file).relative_to(part.path))) for file in files]
    return LabelledFiles(manifest, split, complete(items, sorted(problems), f"{top}: no image"), root)


def _on_disk(top: Path, folders: Sequence[str]) -> list[str]:
    """The class folders as the disk spells them: macOS writes accents as marks of their own (NFD)."""
    spelled: dict[str, str] = {}
    if not all(name.isascii() for name in folders):
        for place in {str(PurePosixPath(folder).parent) for folder in folders}:
            for entry in _entries(top / place):
                path = PurePosixPath(place, entry.name).as_posix()
                spelled[normalize("NFC", path)] = path
    return [f if (top / f).is_dir() else spelled.get(normalize("NFC", f), f) for f in folders]


def _left_out(top: Path, folders: Sequence[str], skip: Sequence[str], name: str) -> list[tuple[str, str]]:
    """(path, what is wrong) of the folders and images below `top` that would be in no class."""
    above = {str(parent) for folder in (*folders, *skip) for parent in PurePosixPath(folder).parents}
    classes, known = set(folders), {*folders, *skip, *above}
    found: list[tuple[str, str]] = []
    for place in sorted({*folders, *above}):
        for entry in _entries(top / place):
            suffix = os.path.splitext(entry.name)[1].lower()
            try:
                folder = entry.is_dir()
            except OSError as error:  # a link to itself
                found.append((entry.path, f"cannot be read ({error.strerror}); remove it"))
                continue
            if folder:
                if str(PurePosixPath(place, entry.name)) not in known:
                    found.append((entry.path, f"a folder of no class of {name}; allowed: {', '.join(sorted(classes))}"))
            elif place not in classes and suffix in IMAGE_SUFFIXES:
                found.append((entry.path, "an image without a label: it lies in no class folder"))
            elif place in classes and suffix in NOT_READ:
                found.append((entry.path, f"{suffix} images are not read; convert it to PNG or JPEG"))
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, hidden things left; nothing where it is missing."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not hidden(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: cannot read this folder ({error.strerror})") from error


def _percent_of(files: list[str], share: tuple[int, int] | None) -> list[str]:
    """The files of one class that a split takes, sorted by name: see `FolderSplit.share`."""
    if share is None:
        return files
    dealt = sorted(files, key=lambda file: hashlib.sha256(PurePosixPath(file).name.encode()).digest())
    start, stop = (len(files) * percent // 100 for percent in share)
    return sorted(dealt[start:stop])


def open_csv(manifest: Manifest, split: SplitName, root: Path) -> LabelledFiles:
    """The images of the table in its order. A label is a class name (or its `folder`), else a class id.

    Raises:
        DataError: the table is missing, not UTF-8, or lacks a column.
        LayoutError: rows with an unknown label, a missing image, or an image that stands there twice, with their lines.
    """
    part, source = manifest.splits[split], manifest.source
    assert isinstance(part, CsvSplit)
    assert isinstance(source, CsvSource)
    path = inside(root, part.file)
    columns = columns_of(manifest, ids=True)
    items: list[LabelledFile] = []
    problems: list[str] = []
    lines: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets start a file with a mark
            rows = csv.DictReader(file, delimiter=source.delimiter, strict=True)
            for wanted in (source.image, source.label):
                if wanted not in (rows.fieldnames or ()):
                    raise DataError(f"{path}: no column {wanted!r}; its columns: {', '.join(rows.fieldnames or ())}")
            for row in rows:
                name = PurePosixPath((row[source.image] or "").strip()).as_posix()
                where = f"{path}, line {rows.line_num}"
                relative = name if part.images is None else f"{part.images}/{name}"
                try:
                    column = column_of((row[source.label] or "").strip(), columns, where, manifest)
                except DataError as error:
                    problems.append(str(error))
                else:
                    if name in lines:
                        problems.append(f"{where}: {name} stands in line {lines[name]} already")
                    elif not inside(root, relative).is_file():
                        problems.append(f"{where}: no image {name!r} in {root / (part.images or '')}")
                    items.append(LabelledFile(relative, column, name))
                lines.setdefault(name, rows.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot read this table ({error})") from error
    return LabelledFiles(manifest, split, complete(items, problems, f"{path}: no row below the header"), root)


def open_cub(manifest: Manifest, split: SplitName, root: Path) -> LabelledFiles:
    """The images of one side of train_test_split.txt, in the order of images.txt.

    Raises:
        DataError: a list is missing, or a line is not an id and a value.
        ManifestError: classes.txt does not hold the manifest's classes.
        LayoutError: images that a list lacks or that are not there.
    """
    part = manifest.splits[split]
    assert isinstance(part, CubSplit)
    classes, images, labels, sides = (_table(root, name) for name in CUB_LISTS)
    if list(classes.values()) != list(manifest.names_in_files()):
        raise ManifestError(f"{root / CUB_LISTS[0]}: its {len(classes)} classes are not those of {manifest.name}")
    columns = {number: column for column, number in enumerate(classes)}
    wanted = "1" if part.part == "train" else "0"
    items: list[LabelledFile] = []
    problems: list[str] = []
    for number, name in images.items():
        if sides.get(number) not in ("0", "1"):
            problems.append(f"{root / CUB_LISTS[3]}: image {number} has {sides.get(number)!r}; expected 0 or 1")
        elif labels.get(number) not in columns:
            problems.append(f"{root / CUB_LISTS[2]}: image {number} has class {labels.get(number)!r}")
        elif sides[number] == wanted:
            file = f"images/{name}"
            if not inside(root, file).is_file():
                problems.append(f"{root / file}: the image is missing")
            items.append(LabelledFile(file, columns[labels[number]], name))
    empty = f"{root / CUB_LISTS[3]}: no image is marked {wanted} ({part.part})"
    return LabelledFiles(manifest, split, complete(items, problems, empty), root)


def _table(root: Path, name: str) -> dict[str, str]:
    table: dict[str, str] = {}
    for line, text in read_lines(root, name):
        number, _, value = text.partition(" ")
        if not number.isdecimal() or not value or number in table:
            raise DataError(f"{root / name}, line {line}: {text!r:.80}; expected a new number and a value")
        table[number] = value.strip()
    return table
