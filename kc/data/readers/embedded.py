"""The benchmarks that need no download: `digit-scenes` (panoptic) and its classification twin `digits`.

They are made once from files of installed packages (see scenes.py) and kept as plain .npy arrays in the cache folder.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kc.data.manifest import Manifest
from kc.data.readers import scenes
from kc.data.readers.base import ItemReader, LabelledArrays
from kc.data.sources import EmbeddedSource
from kc.data.splits import EmbeddedSplit
from kc.errors import DataError, ManifestError
from kc.files import atomic_folder, cache_dir
from kc.progress import Plain, bars, one_bar
from kc.types import BoolArray, Int32Array, Int64Array, SplitName, UInt8Array

Arrays = dict[str, npt.NDArray[np.uint8]]
_COMPLETE = "arrays.txt"
"""Lists the arrays of a cache folder."""

_COMPOSING = "composing digit-scenes, once"
_DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class SceneReader(ItemReader[int]):
    """`digit-scenes`: 128 x 128 scenes; class 0 is background, digit d is class d + 1, instances in order of depth."""

    images: UInt8Array
    semantics: UInt8Array
    instances: UInt8Array

    def name(self, item: int) -> str:
        """The number of the scene, five digits."""
        return f"{item:05d}"

    def image(self, index: int) -> UInt8Array:
        return np.array(self.images[self.items[index]])

    def panoptic(self, index: int) -> tuple[Int32Array, frozenset[int]]:
        i = self.items[index]
        return np.stack([self.semantics[i], self.instances[i]], axis=-1).astype(np.int32), frozenset()

    @cached_property
    def class_table(self) -> BoolArray:
        """(n, 11) bool."""
        held = np.zeros((len(self.images), 256), dtype=np.bool_)
        held[np.arange(len(self.images))[:, None], self.semantics.reshape(len(self.images), -1)] = True
        table: BoolArray = held[list(self.items)][:, list(self.manifest.class_ids())]
        return table


def open_embedded(manifest: Manifest, split: SplitName) -> LabelledArrays | SceneReader:
    """The reader of one split of an embedded set; makes and caches the arrays of all its splits at first use.

    Raises:
        ManifestError: the classes or counts do not fit the set.
        DataError: a package's data or the cache folder cannot be used.
    """
    source = manifest.source
    assert isinstance(source, EmbeddedSource)
    _check_classes(manifest, offset=1 if source.collection == "digit-scenes" else 0)
    if "val" in manifest.splits:
        raise ManifestError(f"{manifest.name}: {source.collection} has splits train and test, no val")
    if source.collection == "digits":
        arrays = _cached(manifest, lambda: _digit_arrays(manifest, source.seed))
        images, digits = arrays[f"{split}-images"], arrays[f"{split}-digits"].astype(np.int64)
        grey: UInt8Array = np.broadcast_to(images[..., None], (*images.shape, 3))  # bright on black
        return LabelledArrays(manifest, split, tuple(range(len(images))), grey, digits)
    arrays = _cached(manifest, lambda: _scene_arrays(manifest, source.seed))
    images, semantics, instances = (arrays[f"{split}-{part}"] for part in ("images", "semantics", "instances"))
    return SceneReader(manifest, split, tuple(range(len(images))), images, semantics, instances)


def _check_classes(manifest: Manifest, offset: int) -> None:
    wanted = dict(enumerate(_DIGIT_NAMES, start=offset)) | ({0: "background"} if offset else {})
    found = dict(zip(manifest.class_ids(), manifest.class_names(), strict=True))
    if found != wanted or (offset and manifest.background_id != 0):
        listed = ", ".join(f"{i} {wanted[i]}" for i in sorted(wanted))
        raise ManifestError(
            f"{manifest.name}: classes of this embedded set are {listed} (0 background: true); the manifest has {found}"
        )
    if offset and manifest.task_kind == "panoptic" and set(manifest.thing_ids) != set(range(1, 11)):
        raise ManifestError(f"{manifest.name}: classes 1 to 10 are things (thing: true), class 0 is not")


def _count(manifest: Manifest, split: SplitName) -> int:
    part = manifest.splits.get(split)
    return part.count if isinstance(part, EmbeddedSplit) else 0


def _digit_arrays(manifest: Manifest, seed: int) -> Arrays:
    pools = scenes.digit_pools(seed)
    arrays: Arrays = {}
    sides: tuple[tuple[SplitName, UInt8Array, Int64Array], ...] = (
        ("train", pools.train_images, pools.train_digits),
        ("test", pools.test_images, pools.test_digits),
    )
    for split, images, digits in sides:
        n = _count(manifest, split)
        if n > len(images):
            raise ManifestError(f"{manifest.name}: splits.{split}.count is {n}; there are {len(images)} digits")
        keep = np.sort(np.random.default_rng([seed, 5]).permutation(len(images))[:n])
        arrays[f"{split}-images"], arrays[f"{split}-digits"] = images[keep], digits[keep].astype(np.uint8)
    return arrays


def _scene_arrays(manifest: Manifest, seed: int) -> Arrays:
    pools = scenes.digit_pools(seed)
    n_train, n_test = _count(manifest, "train"), _count(manifest, "test")
    composed = itertools.chain(
        scenes.compose_split(pools.train_images, pools.train_digits, n_train, seed, test=False),
        scenes.compose_split(pools.test_images, pools.test_digits, n_test, seed, test=True),
    )
    made = []
    with bars(Plain(stderr=True)) as drawn, one_bar(drawn, _COMPOSING, n_train + n_test, "scenes") as bar:
        for scene in composed:
            made.append(scene)
            bar.advance()
    arrays: Arrays = {}
    for split, part in (("train", made[:n_train]), ("test", made[n_train:])):
        shape = (len(part), scenes.SIZE, scenes.SIZE)
        arrays[f"{split}-images"] = np.array([scene.image for scene in part], dtype=np.uint8).reshape(*shape, 3)
        # -1 is background, digit d is class d + 1.
        arrays[f"{split}-semantics"] = np.array([scene.digit + 1 for scene in part], dtype=np.uint8).reshape(shape)
        arrays[f"{split}-instances"] = np.array([scene.instance for scene in part], dtype=np.uint8).reshape(shape)
    return arrays


def _cached(manifest: Manifest, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of an embedded set, memory-mapped from the cache folder, where `make` puts them at first use."""
    folder = cache_dir() / f"{manifest.name}-{manifest.fingerprint[:16]}-v{scenes.VERSION}"
    stored = _load(folder)
    if stored is None:
        arrays = make()
        if _load(folder) is None:  # damaged or absent, not just made by another process
            shutil.rmtree(folder, ignore_errors=True)
        with atomic_folder(folder) as temporary:
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array, allow_pickle=False)
            (temporary / _COMPLETE).write_text("\n".join(sorted(arrays)), encoding="utf-8")
        stored = _load(folder)
    if stored is None:
        raise DataError(f"{folder}: cannot read back what was just written; remove the folder and try again")
    return stored


def _load(folder: Path) -> Arrays | None:
    """The stored arrays; None where they are absent or a file of them is missing or cut short."""
    try:
        names = (folder / _COMPLETE).read_text(encoding="utf-8").split()
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
    except (OSError, ValueError, EOFError):
        return None
