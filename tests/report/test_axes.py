"""The logarithmic axis, by hand."""

from __future__ import annotations

import math

import pytest

from kc.report.style import LogAxis


def test_seconds_by_hand() -> None:
    axis = LogAxis.over([2.0, 30.0, math.nan], "s")
    assert axis.ticks == [(0.0, "1 s"), (0.5, "10 s"), (1.0, "100 s")]
    assert axis.at(10**0.5) == pytest.approx(0.25)
    assert LogAxis.over([10.0, 1000.0], "s").ticks[-1] == (1.0, "1000 s")


def test_bytes_are_32_times_apart() -> None:
    axis = LogAxis.over([26_796, 135_135_158], "B")
    assert [text for _, text in axis.ticks] == ["1 KiB", "32 KiB", "1 MiB", "32 MiB", "1 GiB"]
    assert axis.at(2**20) == pytest.approx(0.5)


def test_nothing_stored_has_a_place_of_its_own() -> None:
    axis = LogAxis.over([0.0, 32.0, 1024.0], "B")
    assert axis.ticks == [(0.0, "0"), (pytest.approx(1 / 3), "32 B"), (1.0, "1 KiB")]
    assert axis.at(0.0) == 0.0
    assert LogAxis.over([0.0], "B").ticks[0] == (0.0, "0")


@pytest.mark.parametrize("values", [[1.0], [5.0], [1e-3, 1e9], []])
def test_everything_is_on_the_axis(values: list[float]) -> None:
    axis = LogAxis.over(values, "s")
    assert all(0 <= axis.at(v) <= 1 for v in values)
    assert 2 <= len(axis.ticks) <= 7
