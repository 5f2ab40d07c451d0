"""Semantic segmentation from image files and single-channel PNGs of class ids with the same names.

VOC (palette PNGs, ImageSets lists), ADE20K SceneParsing, Cityscapes labelTrainIds and COCO-stuff pixel maps are this
format with other folders, endings and lists: see `IndexPngSplit`.
"""

from __future__ import annotations

import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.data.manifest import Manifest
from kc.data.readers.base import FileReader, complete
from kc.data.readers.files import (
    IMAGE_SUFFIXES,
    check_same_size,
    left_out,
    list_files,
    read_lines,
    read_mask,
    says_orientation,
)
from kc.data.readers.mask_values import with_objects
from kc.data.splits import IndexPngSplit
from kc.data.stamps import files_key
from kc.files import atomic_path, cache_dir
from kc.outside import inside
from kc.types import BoolArray, Int32Array, Int64Array, SplitName

_THREADS = 4
_INDEX_VERSION = "index-png-1"


@dataclass(frozen=True)
class Pair:
    """`name`: unique in the split; `image`, `mask`, `objects`: files relative to the root."""

    name: str
    image: str
    mask: str
    objects: str | None = None


@dataclass(frozen=True)
class IndexPngReader(FileReader[Pair]):
    """Pairs of image and mask: sorted by name, or in the order of the split's list."""

    @classmethod
    def open(cls, manifest: Manifest, split: SplitName, root: Path) -> IndexPngReader:
        """Pair the split's files.

        Raises:
            DataError: a folder or the list is missing, the split is empty.
            LayoutError: images without a mask, masks without an image, two images of one name, lines of the list that
                name no file.
        """
        part = manifest.splits[split]
        assert isinstance(part, IndexPngSplit)
        return cls(manifest, split, paired(manifest, split, root, part), root)

    def where_labels(self, index: int) -> str:
        return f"{self.root}/{self.items[index].mask}"

    def labels_upright(self, index: int) -> bool:
        return says_orientation(inside(self.root, self.items[index].mask))

    @cached_property
    def class_table(self) -> BoolArray:
        """(n, C) bool. Reads every mask the first time, then comes from the cache folder."""
        path = cache_dir() / "index" / f"{self._fingerprint()}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                table: BoolArray = stored["table"]
            if table.shape == (len(self), len(self.manifest.classes)) and table.dtype == np.bool_:
                return table
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # absent or damaged: what follows computes it again from the masks
        with ThreadPoolExecutor(_THREADS) as pool:
            held = pool.map(self.held, range(len(self)))
            table = np.stack([np.isin(self.manifest.class_ids(), list(ids)) for ids in held])
        with atomic_path(path, sync=False) as temporary, temporary.open("wb") as file:
            np.savez(file, table=table)
        return table

    def stored(self, index: int) -> npt.NDArray[np.integer[Any]]:
        """The mask (H, W) as stored."""
        return read_mask(self.root, self.items[index].mask, channels=1)

    def semantic(self, index: int) -> Int64Array:
        """The mask as (H, W) int64 class ids, what the manifest ignores as VOID.

        Raises:
            DataError: a value that means no class and is not ignored.
        """
        return self.values(self.stored(index), self.where_labels(index))

    def panoptic(self, index: int) -> tuple[Int32Array, frozenset[int]]:
        """The map (H, W, 2) of class id and instance number. In VOC's files 255 marks the borders of objects."""
        file, semantic = self.items[index].objects, self.semantic(index)
        assert file is not None
        objects, where = read_mask(self.root, file, channels=1), str(self.root / file)
        check_same_size(self.where_labels(index), semantic, where, objects)
        return with_objects(semantic, objects, self.manifest.thing_ids, where, none=(0, 255)), frozenset()

    def _fingerprint(self) -> str:
        """Of what the presence table depends on: the manifest, and every mask as it is now."""
        masks = files_key(inside(self.root, item.mask) for item in self.items)
        return hashlib.sha256(f"{_INDEX_VERSION} {self.manifest.fingerprint} {masks}".encode()).hexdigest()


def paired(manifest: Manifest, split: SplitName, root: Path, part: IndexPngSplit) -> tuple[Pair, ...]:
    """The pairs of a split. Raises as `IndexPngReader.open`."""
    problems: list[str] = []
    if part.names is None:
        pairs = _all_pairs(root, part, problems)
    else:
        pairs = _listed_pairs(root, part, part.names, problems)
    if part.objects is not None:
        pairs = _with_object_files(root, part, part.objects, pairs, problems)
    empty = f"{root / (part.names or part.images)}: no images; splits.{split} of {manifest.name} expects them there"
    return complete(pairs, problems, empty)


def _all_pairs(root: Path, part: IndexPngSplit, problems: list[str]) -> list[Pair]:
    """Every image and mask of the two folders, sorted by name; what has no counterpart or is left out is a problem."""
    if not part.recursive:
        problems += left_out(root, part.images, otherwise="say `recursive`, or move them up")
    images, masks = _images(root, part, problems), _masks(root, part, problems)
    for name in sorted(images.keys() - masks.keys()):
        expected = root / part.labels / f"{name}{part.label_ending}"
        problems.append(f"{root / images[name]}: its mask is missing; expected {expected}")
    for name in sorted(masks.keys() - images.keys()):
        expected = root / part.images / f"{name}{part.image_ending or '.jpg'}"
        problems.append(f"{root / masks[name]}: a mask without an image; expected {expected}")
    return [Pair(name, images[name], masks[name]) for name in sorted(images.keys() & masks.keys())]


def _with_object_files(
    root: Path, part: IndexPngSplit, folder: str, pairs: list[Pair], problems: list[str]
) -> list[Pair]:
    """The pairs with the files that tell their objects apart."""
    files = list_files(root, folder, frozenset({".png"}), part.recursive)
    objects = _by_name(root, files, folder, part.label_ending, problems)
    for pair in pairs:
        if pair.name not in objects:
            expected = root / folder / f"{pair.name}{part.label_ending}"
            problems.append(f"{root / pair.mask}: its objects are missing; expected {expected}")
    return [replace(pair, objects=objects.get(pair.name)) for pair in pairs]


def _listed_pairs(root: Path, part: IndexPngSplit, file: str, problems: list[str]) -> list[Pair]:
    """The images of a list in its order: a name a line, or an image and a mask path (VOC's augmented lists)."""
    lines = read_lines(root, file)
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    if inside(root, part.images).is_dir() or any(len(text.split()) != 2 for _, text in lines):
        images, masks = _images(root, part, problems), _masks(root, part, problems)
    pairs: list[Pair] = []
    taken: dict[str, int] = {}
    for number, text in lines:
        where = f"{root / file}, line {number}"
        words = text.split()
        whole = text if text in images else str(PurePosixPath(text).with_suffix(""))
        if len(words) == 1 or whole in images:
            name = whole if whole in images else text
            image, mask = images.get(name), masks.get(name)
            looked = f"{root / part.images} and {root / part.labels}"
        elif len(words) == 2 and all(PurePosixPath(word).suffix.lower() in IMAGE_SUFFIXES for word in words):
            name = str(PurePosixPath(words[0].lstrip("/").removeprefix(f"{part.images}/")).with_suffix(""))
            image, mask = (word.lstrip("/") if inside(root, word.lstrip("/")).is_file() else None for word in words)
            looked = str(root)
        else:
            problems.append(f"{where}: {text!r:.80}; expected a name, or the paths of an image and its mask")
            continue
        if name in taken:
            problems.append(f"{where}: {name} stands in line {taken[name]} already")
        elif image is None or mask is None:
            lacks = " and ".join(w for w, found in (("image", image), ("mask", mask)) if found is None)
            problems.append(f"{where}: no {lacks} of {text!r} in {looked}")
        else:
            pairs.append(Pair(name, image, mask))
        taken.setdefault(name, number)
    return pairs


def _images(root: Path, part: IndexPngSplit, problems: list[str]) -> dict[str, str]:
    files = list_files(root, part.images, recursive=part.recursive)
    return _by_name(root, files, part.images, part.image_ending, problems)


def _masks(root: Path, part: IndexPngSplit, problems: list[str]) -> dict[str, str]:
    suffixes = frozenset({PurePosixPath(f"a{part.label_ending}").suffix.lower()})
    files = list_files(root, part.labels, suffixes, part.recursive)
    return _by_name(root, files, part.labels, part.label_ending, problems)


def _by_name(root: Path, files: list[str], folder: str, ending: str | None, problems: list[str]) -> dict[str, str]:
    """Name -> file, for the files with this ending (None: any suffix). A name is the path below `folder` without it."""
    names: dict[str, str] = {}
    for file in files:
        below = PurePosixPath(file).relative_to(folder)
        if ending is not None and not below.name.lower().endswith(ending.lower()):
            continue
        name = str(below.with_suffix("")) if ending is None else str(below)[: -len(ending)]
        if name in names:
            first = root / names[name]
            problems.append(f"{root / file}: has the same name as {first}; each may appear once in a folder")
        else:
            names[name] = file
    return names
