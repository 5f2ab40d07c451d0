"""CUB-200-2011 as its owners distribute it: an image folder and four lists of numbers.

Wah et al. 2011, "The Caltech-UCSD Birds-200-2011 Dataset"; each line of a list is an id and a value.
"""

from __future__ import annotations

from pathlib import Path

from kc.data.manifest import Manifest
from kc.data.readers.base import LayoutError, inside, read_lines
from kc.data.readers.labelled_files import LabelledFile, LabelledFiles
from kc.data.splits import CUB_LISTS, CubSplit
from kc.errors import DataError, ManifestError
from kc.types import SplitName


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
    column_of = {number: column for column, number in enumerate(classes)}
    wanted = "1" if part.part == "train" else "0"
    items: list[LabelledFile] = []
    problems: list[str] = []
    for number, name in images.items():
        if sides.get(number) not in ("0", "1"):
            problems.append(f"{root / CUB_LISTS[3]}: image {number} has {sides.get(number)!r}; expected 0 or 1")
        elif labels.get(number) not in column_of:
            problems.append(f"{root / CUB_LISTS[2]}: image {number} has class {labels.get(number)!r}")
        elif sides[number] == wanted:
            file = f"images/{name}"
            if not inside(root, file).is_file():
                problems.append(f"{root / file}: the image is missing")
            items.append(LabelledFile(file, column_of[labels[number]], name))
    if not items and not problems:
        raise DataError(f"{root / CUB_LISTS[3]}: no image is marked {wanted} ({part.part})")
    if problems:
        raise LayoutError(problems)
    return LabelledFiles(manifest, split, root, tuple(items))


def _table(root: Path, name: str) -> dict[str, str]:
    table: dict[str, str] = {}
    for line, text in read_lines(root, name):
        number, _, value = text.partition(" ")
        if not number.isdecimal() or not value or number in table:
            raise DataError(f"{root / name}, line {line}: {text!r:.80}; expected a new number and a value")
        table[number] = value.strip()
    return table
