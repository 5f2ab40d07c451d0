"""Errors: one line, whichever process they were raised in."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, Dataset

from kc.errors import DataError


class Torn(Dataset[int]):
    """Its second image cannot be read."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        if index:
            try:
                raise OSError("truncated")
            except OSError as error:
                raise DataError("b.png: cannot read the image\n  caught in passing: nothing") from error
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_process_is_the_error_alone(workers: int) -> None:
    with pytest.raises(DataError) as found:
        list(DataLoader(Torn(), num_workers=workers))
    assert str(found.value) == "b.png: cannot read the image\n  caught in passing: nothing"
