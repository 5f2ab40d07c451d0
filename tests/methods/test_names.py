"""A file of names: what it adds, and what it refuses."""

from pathlib import Path

import pytest

from kc.errors import KcError
from kc.methods.names import read_names


def test_one_line_a_task(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("zebra crossing, couch|sofa\n\n  kite\n")
    assert read_names(path) == [[("zebra crossing",), ("couch", "sofa")], [], [("kite",)]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cat, ,dog", "line 1: an empty name"),
        ("cat|", "line 1: an empty name"),
        ("cat\ndog, Cat", "line 2: 'Cat' stands in line 1 too"),
        ("cat|cat", "'cat' stands in line 1 too"),
    ],
)
def test_empty_names_and_names_given_twice(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "names.txt"
    path.write_text(text)
    with pytest.raises(KcError, match=says):
        read_names(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(KcError, match="cannot be read"):
        read_names(tmp_path / "none.txt")
