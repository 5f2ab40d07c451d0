"""Classification from one folder a class: SPLIT/NAME/*.jpg."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from kc.data.manifest import Manifest
from kc.data.readers.base import LayoutError, inside, list_files
from kc.data.readers.labelled_files import LabelledFile, LabelledFiles
from kc.data.sources import FolderSource, FolderSplit
from kc.errors import DataError
from kc.types import SplitName


def open_folder(manifest: Manifest, split: SplitName, root: Path) -> LabelledFiles:
    """The images of the class folders, classes in manifest order, files sorted by name.

    Raises:
        LayoutError: a class folder is missing or empty, or a folder is of no class of the manifest.
    """
    part, source = manifest.splits[split], manifest.source
    assert isinstance(part, FolderSplit)
    assert isinstance(source, FolderSource)
    top = inside(root, part.path)
    if not top.is_dir():
        raise DataError(f"{top}: no such folder; splits.{split}.path of {manifest.name} expects it")
    folders = manifest.names_in_files()
    found = {entry.name for entry in top.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    known = {PurePosixPath(name).parts[0] for name in (*folders, *source.skip)}
    allowed = ", ".join(sorted(folders))
    problems = [f"{top / n}: a folder of no class of {manifest.name}; allowed: {allowed}" for n in found - known]
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


def _shared(files: list[str], share: tuple[int, int] | None) -> list[str]:
    """The files of one class that a split takes, sorted by name: see `FolderSplit.share`."""
    if share is None:
        return files
    dealt = sorted(files, key=lambda file: hashlib.sha256(PurePosixPath(file).name.encode()).digest())
    start, stop = (len(files) * percent // 100 for percent in share)
    return sorted(dealt[start:stop])
