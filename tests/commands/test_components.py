"""`kc methods` and `kc components` say what the specs say, without loading what they describe."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kc.cli import main
from kc.registry import METHODS, TABLES, spec_of
from kc.spec import options_of


def shown(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(list(arguments)) == status
    said = capsys.readouterr()
    return said.err if status else said.out


def test_all_names_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    listed = shown(capsys, "methods")
    assert all(name in listed for name in METHODS)
    listed = shown(capsys, "components")
    assert all(name in listed for kind in ("encoder", "proposer", "base") for name in TABLES[kind])


@pytest.mark.parametrize("kind", ["encoder", "proposer", "base", "method"])
def test_options_are_shown_with_range_and_default(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in TABLES[kind]:
        said = shown(capsys, "methods" if kind == "method" else "components", name)
        for option in options_of(spec_of(kind, name).options):
            assert f"--{name}.{option.name}" in said
            assert option.help, f"{name}.{option.name} has no help"


def test_a_mistyped_name_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'knn'" in shown(capsys, "methods", "knnn", status=2)
    assert "'gclip'" in shown(capsys, "components", "gclp", status=2)


def test_options_have_one_owner() -> None:
    """A proposer or base whose name is also that of another kind has no options: `--NAME.OPTION` means one thing."""
    names = [name for table in TABLES.values() for name in table]
    for name in {n for n in names if names.count(n) > 1}:
        owners = [kind for kind, table in TABLES.items() if name in table and options_of(spec_of(kind, name).options)]
        assert len(owners) <= 1, (name, owners)


def test_listing_loads_no_torch() -> None:
    code = "import sys; from kc.cli import main; main(['methods']); main(['components', 'gclip']); "
    code += "assert not {'torch', 'lightning', 'faiss'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
