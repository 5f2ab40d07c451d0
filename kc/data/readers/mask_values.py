"""From the numbers in a mask to class ids, and from class ids and object numbers to panoptic maps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kc.data.manifest import Manifest
from kc.errors import DataError
from kc.label_png import from_pixels, to_pixels
from kc.types import VOID, Int32Array, Int64Array, UInt8Array

UNKNOWN = int(np.iinfo(np.int64).min)
"""What a value stands for that has no meaning."""


@dataclass(frozen=True)
class ByteTable:
    """What the bytes of a mask mean: several times faster to check and to look up than numbers in a table.

    `known`: the bytes that mean something. `table`: the pixel (`kc.label_png`) of what each byte means, None where
    each is its own. `first`, `span`: where the known bytes are all from `first` to `first + span` (255 is followed by
    0), else None.
    """

    known: bytes
    table: bytes | None
    first: int
    span: int | None

    @classmethod
    def of(cls, meaning: Int64Array) -> ByteTable:
        """Of (256,) int64 class ids up to 254, VOID or UNKNOWN."""
        known = np.flatnonzero(meaning != UNKNOWN)
        pixels = to_pixels(np.where(meaning == UNKNOWN, VOID, meaning))
        starts = known[(meaning[(known - 1) % 256] == UNKNOWN)]
        span = len(known) - 1 if len(starts) <= 1 else None
        table = None if (pixels[known] == known).all() else pixels.tobytes()
        return cls(known.astype(np.uint8).tobytes(), table, int(starts[0]) if len(starts) else 0, span)

    def knows(self, values: UInt8Array) -> bool:
        """Whether every byte means something."""
        if self.span is not None:
            return bool(np.subtract(values, np.uint8(self.first)).max(initial=0) <= self.span)
        return not values.tobytes().translate(None, self.known)

    def mapped(self, values: UInt8Array) -> Int64Array:
        """The class id or VOID that each byte means; only of known ones."""
        if self.table is not None:
            values = np.frombuffer(values.tobytes().translate(self.table), np.uint8).reshape(values.shape)
        return from_pixels(values)


class ValueTable:
    """What the values of a benchmark's masks mean: made once a reader, asked for every image.

    `others`: what a value that means no class and is not ignored becomes; None: an error.
    """

    def __init__(self, manifest: Manifest, others: int | None) -> None:
        self.name = manifest.name
        self.meaning = {value: c.id for c in manifest.classes for value in manifest.values_of(c)}
        self.meaning |= dict.fromkeys(manifest.ignored, VOID)
        # Its last entry stands for every value beyond.
        self.table = np.full(max(255, *self.meaning) + 2, UNKNOWN if others is None else others, dtype=np.int64)
        self.table[list(self.meaning)] = list(self.meaning.values())
        # The same for bytes alone; None where class ids and VOID do not fit one.
        self.bytes = None if int(self.table.max()) > 254 else ByteTable.of(self.table[:256])

    def __call__(self, values: npt.NDArray[np.integer[Any]], where: str) -> Int64Array:
        """Mask values (H, W) as int64 class ids. DataError that names `where` for a value without a meaning."""
        semantic: Int64Array
        if values.dtype == np.uint8 and self.bytes is not None and self.bytes.knows(values.view(np.uint8)):
            return self.bytes.mapped(values.view(np.uint8))
        last = len(self.table) - 1
        semantic = self.table.take(np.where((values < 0) | (values > last), last, values))
        if semantic.min(initial=0) == UNKNOWN:
            wrong = ", ".join(str(v) for v in np.unique(values[semantic == UNKNOWN])[:8])
            allowed = ", ".join(str(v) for v in sorted(self.meaning))
            raise DataError(f"{where}: value {wrong} is no class of {self.name}; allowed: {allowed}")
        return semantic


def with_objects(
    semantic: Int64Array,
    objects: npt.NDArray[np.integer[Any]],
    thing_ids: Collection[int],
    where: str,
    none: Collection[int] = (0,),
) -> Int32Array:
    """A panoptic map (H, W, 2) of class ids (H, W) and object numbers (H, W); `none` are numbers of no object.

    Every pair of a thing and an object number is one instance, numbered from 1 in rising order of (object, class).
    Raises DataError, naming `where`, for pixels of a thing that belong to no object.
    """
    things = np.isin(semantic, list(thing_ids))
    lost = things & np.isin(objects, list(none))
    if lost.any():
        raise DataError(f"{where}: {int(lost.sum())} pixels of class {int(semantic[lost][0])}, a thing, are no object")
    panoptic = np.stack([semantic, np.zeros_like(semantic)], axis=-1).astype(np.int32)
    pairs = np.stack([objects[things].astype(np.int64), semantic[things]], axis=-1)
    if len(pairs):
        panoptic[things, 1] = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1) + 1
    return panoptic
