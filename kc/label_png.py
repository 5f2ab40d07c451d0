"""Class ids as the pixels of single-channel PNGs, the only place where void is a positive number."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kc.errors import DataError
from kc.types import VOID, Int64Array

Pixels = npt.NDArray[np.unsignedinteger[Any]]


def to_pixels(labels: npt.NDArray[np.integer[Any]], top: int | None = None) -> Pixels:
    """A map of class ids and VOID as uint8 with 255 for void where ids reach 254 at most, else uint16 with 65535.

    `top`: the highest id that there may be, where several maps shall have one type (default: that of the map). Raises
    DataError for ids above 65534.
    """
    top = int(labels.max(initial=0)) if top is None else top
    if top >= 65535:
        raise DataError(f"class id {top}: a PNG of class ids holds those up to 65534")
    void = 255 if top < 255 else 65535
    pixels: Pixels = np.where(labels == VOID, void, labels).astype(np.uint8 if void == 255 else np.uint16)
    return pixels


def from_pixels(pixels: npt.NDArray[np.integer[Any]]) -> Int64Array:
    """The map of class ids and VOID, int64, that `to_pixels` made uint8 or wider pixels of."""
    labels: Int64Array
    if pixels.dtype == np.uint8:
        # Void wraps to 0: two passes over bytes instead of a comparison and a choice.
        labels = np.subtract(pixels + np.uint8(1), 1, dtype=np.int64)
    else:
        labels = np.where(pixels == 65535, VOID, pixels.astype(np.int64))
    return labels
