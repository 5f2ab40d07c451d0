"""What the bytes of a label map mean, checked and looked up in a pass each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kc.types import Int64Array, UInt8Array


@dataclass(frozen=True)
class ByteTable:
    """What the bytes of a mask mean: several times faster to check and to look up than numbers in a table.

    `known`: the bytes that mean something. `table`: what each byte means, None where each means itself. `first`,
    `span`: where the known bytes are all from `first` to `first + span` (255 is followed by 0), else None.
    """

    known: bytes
    table: bytes | None
    first: int
    span: int | None

    @classmethod
    def of(cls, meaning: Int64Array) -> ByteTable:
        """Of (256,) int64 values from 0 to 255, -1 for none."""
        known = np.flatnonzero(meaning >= 0)
        itself = bool((meaning[known] == known).all())
        starts = known[(meaning[(known - 1) % 256] < 0)]
        span = len(known) - 1 if len(starts) <= 1 else None
        table = None if itself else meaning.clip(0).astype(np.uint8).tobytes()
        return cls(known.astype(np.uint8).tobytes(), table, int(starts[0]) if len(starts) else 0, span)

    def knows(self, values: UInt8Array) -> bool:
        """Whether every byte means something."""
        if self.span is not None:
            return bool(np.subtract(values, np.uint8(self.first)).max(initial=0) <= self.span)
        return not values.tobytes().translate(None, self.known)

    def mapped(self, values: UInt8Array) -> UInt8Array:
        """What each byte means; only of known ones."""
        if self.table is None:
            return values
        return np.frombuffer(values.tobytes().translate(self.table), np.uint8).reshape(values.shape)
