"""Classification from a table with a header: one image and its class a row."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from kc.data.manifest import Manifest
from kc.data.readers.base import LayoutError, inside
from kc.data.readers.labelled_files import LabelledFile, LabelledFiles
from kc.data.sources import CsvSource
from kc.data.splits import CsvSplit
from kc.errors import DataError, nearest
from kc.types import SplitName


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
    # Names win over ids, as in a file of the class order.
    column_of = {str(c.id): i for i, c in enumerate(manifest.classes)}
    column_of |= {name: i for i, name in enumerate(manifest.class_names())}
    column_of |= {name: i for i, name in enumerate(manifest.names_in_files())}
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
                image, label = row[source.image] or "", (row[source.label] or "").strip()
                name = PurePosixPath(image.strip()).as_posix()
                where = f"{path}, line {rows.line_num}"
                if label not in column_of:
                    close = nearest(label, column_of, n=1)
                    hint = f"; did you mean {close[0]!r}?" if close else ""
                    problems.append(f"{where}: label {label!r} is no class of {manifest.name}{hint}")
                elif name in lines:
                    problems.append(f"{where}: {name} stands in line {lines[name]} already")
                elif not (relative := _image(root, part, name)):
                    problems.append(f"{where}: no image {name!r} in {root / (part.images or '')}")
                else:
                    items.append(LabelledFile(relative, column_of[label], name))
                lines.setdefault(name, rows.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot read this table ({error})") from error
    if not items and not problems:
        raise DataError(f"{path}: no row below the header")
    if problems:
        raise LayoutError(problems)
    return LabelledFiles(manifest, split, root, tuple(items))


def _image(root: Path, part: CsvSplit, name: str) -> str | None:
    """The image's path below the root, None where there is no such file; DataError where it leaves the root."""
    relative = name if part.images is None else f"{part.images}/{name}"
    return relative if inside(root, relative).is_file() else None
