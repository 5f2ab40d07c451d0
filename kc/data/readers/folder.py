"""Classification from one folder a class: SPLIT/NAME/*.jpg."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from kc.data.manifest import Manifest
from kc.data.readers.base import IMAGE_SUFFIXES, LayoutError, inside, list_files
from kc.data.readers.labelled_files import LabelledFile, LabelledFiles
from kc.data.sources import FolderSource
from kc.data.splits import FolderSplit
from kc.errors import DataError
from kc.types import SplitName

_NOT_READ = frozenset(
    {".tif", ".tiff", ".gif", ".jfif", ".jpe", ".jp2", ".heic", ".heif", ".avif", ".tga", ".pgm", ".pbm", ".pnm"}
)


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
    folders = manifest.names_in_files()
    problems = [f"{path}: {said}" for path, said in _left_out(top, folders, source.skip, manifest.name)]
    items: list[LabelledFile] = []
    for column, folder in enumerate(folders):
        missing = not (top / folder).is_dir()
        files = [] if missing else _shared(list_files(root, f"{part.path}/{folder}"), part.share)
        if missing:
            problems.append(f"{top / folder}: no such folder; class {manifest.classes[column].name!r} expects it")
        elif not files:
            problems.append(f"{top / folder}: no image of class {manifest.classes[column].name!r}")
        items += [LabelledFile(file, column, str(PurePosixPath(file).relative_to(part.path))) for file in files]
    if problems:
        raise LayoutError(sorted(problems))
    return LabelledFiles(manifest, split, root, tuple(items))


def _left_out(top: Path, folders: Sequence[str], skip: Sequence[str], name: str) -> list[tuple[str, str]]:
    """(path, what is wrong) of the folders and images below `top` that would be in no class."""
    above = {str(parent) for folder in (*folders, *skip) for parent in PurePosixPath(folder).parents}
    classes, known = set(folders), {*folders, *skip, *above}
    found: list[tuple[str, str]] = []
    for place in sorted({*folders, *above}):
        for entry in _entries(top / place):
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.is_dir():
                if str(PurePosixPath(place, entry.name)) not in known:
                    found.append((entry.path, f"a folder of no class of {name}; allowed: {', '.join(sorted(classes))}"))
            elif place not in classes and suffix in IMAGE_SUFFIXES:
                found.append((entry.path, "an image without a label: it lies in no class folder"))
            elif place in classes and suffix in _NOT_READ:
                found.append((entry.path, f"{suffix} images are not read; convert it to PNG or JPEG"))
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, hidden things left; nothing where it is missing."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: cannot read this folder ({error.strerror})") from error


def _shared(files: list[str], share: tuple[int, int] | None) -> list[str]:
    """The files of one class that a split takes, sorted by name: see `FolderSplit.share`."""
    if share is None:
        return files
    dealt = sorted(files, key=lambda file: hashlib.sha256(PurePosixPath(file).name.encode()).digest())
    start, stop = (len(files) * percent // 100 for percent in share)
    return sorted(dealt[start:stop])
