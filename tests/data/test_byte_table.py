"""Bytes of label maps, against a dictionary for all of them."""

from __future__ import annotations

import numpy as np
import pytest

from kc.data.readers.mask_values import UNKNOWN, ByteTable
from kc.types import VOID


@pytest.mark.parametrize(
    ("meaning", "span"),
    [
        ({i: i for i in range(21)} | {255: VOID}, 21),  # VOC: from 255 over 0 to 20
        ({i: i - 1 for i in range(1, 151)} | {0: VOID}, 150),  # ADE20K: another number for each
        ({3: 3, 7: 7, 9: 1}, None),  # gaps
        ({i: i for i in range(255)} | {255: VOID}, 255),
        ({i: 254 - i for i in range(256)}, 255),
        ({5: 5}, 0),
    ],
)
def test_bytes_mean_what_the_dictionary_says(meaning: dict[int, int], span: int | None) -> None:
    numbers = np.full(256, UNKNOWN, dtype=np.int64)
    numbers[list(meaning)] = list(meaning.values())
    table = ByteTable.of(numbers)
    assert table.span == span
    for value in range(256):
        row = np.array([next(iter(meaning)), value], dtype=np.uint8)
        assert table.knows(row) == (value in meaning), value
    known = np.array(sorted(meaning), dtype=np.uint8).reshape(1, -1)
    assert table.mapped(known).tolist() == [[meaning[v] for v in sorted(meaning)]]
    assert table.knows(np.empty(0, np.uint8))
