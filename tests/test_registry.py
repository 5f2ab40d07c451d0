"""Specs are read from a module's text, without importing what the module imports."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kc.registry import read_spec
from kc.spec import MethodSpec, options_of

METHOD = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch_that_is_not_there
from kc.spec import MethodSpec, NonNegative, Tunable


@dataclass(frozen=True)
class MineOptions:
    """Options.

    Args:
        lambda_: Weight of
            the penalty.
        order: Which comes first.
    """

    lambda_: NonNegative = 2.0
    order: Literal["old", "new"] = "old"


class Mine(torch_that_is_not_there.Module):
    """A method."""

    spec = MethodSpec(summary="Mine.", options=MineOptions, tune=Tunable("lambda"), second_pass=True)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_spec_is_read_without_importing(folder: Path) -> None:
    (folder / "mine_of_test.py").write_text(METHOD)
    spec = read_spec("mine_of_test:Mine")
    assert isinstance(spec, MethodSpec)
    assert spec.second_pass
    assert "mine_of_test" not in sys.modules
    assert spec.options(lambda_=3.0).lambda_ == 3.0
    first, second = options_of(spec.options)
    assert (first.name, first.default, first.range) == ("lambda", 2.0, "a number, at least 0")
    assert first.help == "Weight of the penalty."
    assert second.range == "one of old, new"


@pytest.mark.parametrize(
    ("old", "new"),
    [("spec = MethodSpec", "other = MethodSpec"), ('Tunable("lambda")', "HEAVY"), ("class Mine(", "class Other(")],
)
def test_what_cannot_be_read_is_named(folder: Path, old: str, new: str) -> None:
    name = f"broken_{abs(hash(new))}"
    (folder / f"{name}.py").write_text(METHOD.replace(old, new))
    with pytest.raises(TypeError, match=name):
        read_spec(f"{name}:Mine")
