"""What the bytes of a label map mean, checked and looked up in a pass each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kc.label_png import from_pixels, to_pixels
from kc.types import VOID, Int64Array, UInt8Array

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
