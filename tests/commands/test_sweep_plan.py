"""The values that a sweep tries of each method's hyperparameter."""

from __future__ import annotations

import dataclasses

import pytest

from kc.commands.sweep_plan import around, default_grid
from kc.config import RunConfig
from kc.errors import KcError
from kc.registry import METHODS, method_spec
from kc.spec import Tunable
from kc.types import TaskKind

TUNED = [name for name in METHODS if method_spec(name).tune is not None]


@pytest.mark.parametrize(
    ("tunable", "centre", "values"),
    [
        (Tunable("lambda_"), 100.0, [100.0, 1000.0, 10.0, 10000.0, 1.0]),
        (Tunable("k", 2, whole=True), 16, [16, 32, 8, 64, 4]),
        (Tunable("k", 2, whole=True), 1, [1, 2, 4, 8, 16]),  # no zero, nothing twice
        (Tunable("dim", 2, whole=True, high=10_000), 8000, [8000, 4000, 2000, 1000, 500]),
        (Tunable("alpha", 3, odds=True), 0.5, [0.5, 0.75, 0.25, 0.9, 0.1]),
        (Tunable("lr", 10**0.5), "0.01,0.001", ["0.01,0.001", "0.0316,0.00316", "0.00316,0.000316",
                                               "0.1,0.01", "0.001,0.0001"]),
    ],
)  # fmt: skip
def test_values_go_outwards_from_the_default(tunable: Tunable, centre: float | str, values: list[object]) -> None:
    found = around(tunable, centre, 5)
    assert found == values
    assert [type(v) for v in found] == [type(v) for v in values]
    assert around(tunable, centre, 1) == [centre]


@pytest.mark.parametrize(
    ("tunable", "centre", "n"),
    [
        (Tunable("kd"), 0.0, 3),
        (Tunable("lr"), "0.01,0", 3),
        (Tunable("alpha", odds=True), 1.0, 3),
        (Tunable("kd"), 1.0, 99),
    ],
)
def test_what_factors_cannot_space_is_refused(tunable: Tunable, centre: float | str, n: int) -> None:
    with pytest.raises(KcError, match="--grid"):
        around(tunable, centre, n)


def test_what_is_tuned_exists() -> None:
    shared = {f.name for f in dataclasses.fields(RunConfig)}
    for name in METHODS:
        spec = method_spec(name)
        for tunable in (spec.tune, spec.tune_maps):
            assert tunable is None or tunable.option in shared | {f.name for f in dataclasses.fields(spec.options)}
    assert set(METHODS) - set(TUNED) == {"ncm", "zeroshot"}


@pytest.mark.parametrize(
    ("kind", "ewc", "lwf"), [("classification", 100, "lwf.lambda"), ("semantic", 500, "lwf.pixel-kd")]
)
def test_maps_and_images_have_their_own(kind: TaskKind, ewc: float, lwf: str) -> None:
    assert default_grid("ewc", RunConfig(), kind, 3) == ("ewc.lambda", [ewc, ewc * 10, ewc / 10])
    found = default_grid("lwf", RunConfig(), kind, 1)
    assert found is not None
    assert found[0] == lwf
    assert default_grid("ncm", RunConfig(), kind, 3) is None


def test_a_flag_moves_the_grid() -> None:
    config = RunConfig(options={"ewc": {"lambda_": 7.0}})
    assert default_grid("ewc", config, "classification", 3) == ("ewc.lambda", [7.0, 70.0, 0.7])


@pytest.mark.parametrize("name", TUNED)
def test_every_default_grid_has_as_many_values_as_another(name: str) -> None:
    grid = default_grid(name, RunConfig(), method_spec(name).kinds[0], 9)
    assert grid is not None
    assert len(set(grid[1])) == 9
    assert all(float(v) > 0 for v in grid[1])
