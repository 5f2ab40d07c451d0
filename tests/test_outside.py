"""Text, JSON and YAML from outside: every failure is one error that names the file, and nothing is executed."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kc.errors import DataError, RunError
from kc.outside import MOST_DEPTH, parse_json, parse_yaml, read_json, read_text, read_yaml

BAD_YAML = {
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3"),
    "a key twice, deep": ("- {a: 1, a: 2}", "line 1"),
    "alias": ("a: &x 1\nb: *x", "line 1"),
    "many aliases": ("a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]", "line 1"),
    "tag": ("a: !!python/object/apply:os.getcwd []", "line 1"),
    "own tag": ("a: !mine 3", "line 1"),
    "deep": ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "line 1"),
    "very deep": ("[" * 100_000, "bad.yaml"),
    "unhashable key": ("? [1, 2]\n: 3", "bad.yaml"),
    "no date": ("a: 2026-13-45", "bad.yaml"),
    "long number": ("a: " + "9" * 5000, "bad.yaml"),
    "control character": ("a: \x00", "bad.yaml"),
    "tab": ("a:\n\t- b", "line 2"),
}


@pytest.mark.parametrize(("text", "said"), BAD_YAML.values(), ids=BAD_YAML)
def test_what_yaml_may_not_hold(text: str, said: str) -> None:
    with pytest.raises(RunError) as error:
        parse_yaml(text, "bad.yaml", error=RunError)
    assert "bad.yaml" in str(error.value)
    assert said in str(error.value)


def test_plain_yaml() -> None:
    assert parse_yaml("a: [1, 2.5, x]\nb: {c: null, d: true}\n", "f") == {
        "a": [1, 2.5, "x"],
        "b": {"c": None, "d": True},
    }
    nested = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert parse_yaml(nested, "f") == eval(nested)
    assert parse_yaml("", "f") is None


@pytest.mark.parametrize("text", ["{", "[NaN]", "[-Infinity]", "[" * 100_000, "9" * 5000, "{} x", b"\xff\xfe"])
def test_what_json_may_not_hold(text: str | bytes) -> None:
    with pytest.raises(DataError, match=r"bad\.json"):
        parse_json(text, "bad.json")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf[1]\n")
    assert read_text(path) == "[1]\n"
    assert read_json(path) == read_yaml(path) == [1]


def test_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\nb\n\xe9\n")
    with pytest.raises(DataError, match=rf"{path}, line 3"):
        read_text(path)
    with pytest.raises(DataError, match=str(path)):
        read_text(path, most=5)
    for missing in (tmp_path / "none", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(RunError):
            read_text(missing, error=RunError)


@given(st.one_of(st.text(), st.binary().map(lambda b: b.decode("latin-1"))))
def test_any_text_is_a_value_or_one_error(text: str) -> None:
    for parse in (parse_yaml, parse_json):
        with contextlib.suppress(DataError):
            parse(text, "f")
