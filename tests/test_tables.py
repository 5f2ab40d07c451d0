"""The tables of methods in README and docs are those of the specs: `python docs/tables.py --write` makes them again."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from latex2mathml.converter import convert

from kc.registry import METHODS, method_spec

ROOT = Path(__file__).parents[1]


def load() -> Any:
    spec = importlib.util.spec_from_file_location("tables_of_docs", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLES = load()


@pytest.mark.parametrize("name", TABLES.TABLES)
def test_a_table_is_that_of_the_specs(name: str) -> None:
    page, make = TABLES.TABLES[name]
    text = (ROOT / page).read_text(encoding="utf-8")
    assert TABLES.made(text, name, make()) == text, "python docs/tables.py --write"


def test_every_method_stands_in_one_table_of_formulas() -> None:
    shown = "".join(TABLES.TABLES[name][1]() for name in ("gradient", "pixels", "masks", "retrieval"))
    assert all(shown.count(f"| `{name}` |") == 1 for name in METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_formula_can_be_drawn(name: str) -> None:
    assert "\\" not in convert(method_spec(name).formula)
