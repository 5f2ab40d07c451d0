"""The grid of each method's own strength."""

from __future__ import annotations

import dataclasses

import pytest

from kc.commands.strengths import OF_IMAGES, Strength, default_grid
from kc.config import RunConfig
from kc.errors import KcError
from kc.registry import METHODS, PIXELS_ONLY


@pytest.mark.parametrize(
    ("strength", "centre", "values"),
    [
        (Strength("ewc_lambda"), 100.0, [100.0, 1000.0, 10.0, 10000.0, 1.0]),
        (Strength("k", 2, whole=True), 16, [16, 32, 8, 64, 4]),
        (Strength("k", 2, whole=True), 1, [1, 2, 4, 8, 16]),  # no zero, nothing twice
        (Strength("ranpac_dim", 2, whole=True, high=10_000), 8000, [8000, 4000, 2000, 1000, 500]),
        (Strength("wise_alpha", 3, odds=True), 0.5, [0.5, 0.75, 0.25, 0.9, 0.1]),
        (Strength("lr", 10**0.5), "0.01,0.001", ["0.01,0.001", "0.0316,0.00316", "0.00316,0.000316",
                                                "0.1,0.01", "0.001,0.0001"]),
    ],
)  # fmt: skip
def test_values_go_outwards_from_the_default(strength: Strength, centre: object, values: list[object]) -> None:
    found = strength.around(centre, 5)
    assert found == values
    assert [type(v) for v in found] == [type(v) for v in values]
    assert strength.around(centre, 1) == [centre]


@pytest.mark.parametrize(
    ("strength", "centre", "n"),
    [
        (Strength("mib_kd"), 0.0, 3),
        (Strength("lr"), "0.01,0", 3),
        (Strength("wise_alpha", odds=True), 1.0, 3),
        (Strength("mib_kd"), 1.0, 99),
    ],
)
def test_what_factors_cannot_space_is_refused(strength: Strength, centre: object, n: int) -> None:
    with pytest.raises(KcError, match="--strengths"):
        strength.around(centre, n)


def test_only_methods_with_nothing_to_set_have_no_strength() -> None:
    assert set(METHODS) - set(OF_IMAGES) == {"ncm", "zeroshot"}
    assert set(OF_IMAGES) <= set(METHODS)
    fields = {f.name for f in dataclasses.fields(RunConfig)}
    assert {s.knob for s in OF_IMAGES.values()} <= fields


@pytest.mark.parametrize(("kind", "ewc", "lwf"), [("classification", 100, "lwf_lambda"), ("semantic", 500, "pixel_kd")])
def test_maps_and_images_have_their_own(kind: str, ewc: float, lwf: str) -> None:
    assert default_grid("ewc", RunConfig(), kind, 3) == ("ewc_lambda", [ewc, ewc * 10, ewc / 10])
    assert default_grid("lwf", RunConfig(), kind, 1)[0] == lwf
    assert default_grid("ncm", RunConfig(), kind, 3) is None


def test_a_flag_moves_the_grid() -> None:
    assert default_grid("ewc", RunConfig(ewc_lambda=7.0), "classification", 3) == ("ewc_lambda", [7.0, 70.0, 0.7])


@pytest.mark.parametrize("name", sorted(OF_IMAGES))
def test_every_default_grid_has_as_many_values_as_another(name: str) -> None:
    kind = "semantic" if name in PIXELS_ONLY else "classification"
    knob, values = default_grid(name, RunConfig(), kind, 9)
    assert len(set(values)) == 9
    assert all(v > 0 for v in values)
    assert values[0] == (getattr(RunConfig(), knob) or 100.0)
